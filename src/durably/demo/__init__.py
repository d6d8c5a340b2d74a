"""The demo: a research agent on real documents that survives the kill of its worker and its server."""
