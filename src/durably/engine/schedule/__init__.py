"""Schedules: when an action is due, what overlaps do, and what has been done."""
