"""Sets of compatible builds of a task queue."""
