"""Batch operations: one thing done to many executions."""
