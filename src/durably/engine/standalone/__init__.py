"""Standalone activities: an activity that is an execution of its own."""
