"""Which workers may have a workflow's tasks."""
