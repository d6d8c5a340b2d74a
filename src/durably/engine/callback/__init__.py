"""Completion callbacks: calls that are owed when an execution, or an update of it, has ended."""
