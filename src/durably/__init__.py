"""A durable execution server for AI agents that speaks the Temporal API."""
