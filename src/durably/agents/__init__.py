"""What agents did, read from event histories alone: model calls, tools, tokens. Pure."""
