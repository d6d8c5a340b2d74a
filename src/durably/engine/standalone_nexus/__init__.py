"""Nexus operations that are executions of their own."""
