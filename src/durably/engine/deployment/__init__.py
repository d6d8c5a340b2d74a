"""Worker deployments and their versions."""
