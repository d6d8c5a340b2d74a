"""Where everything is kept: every query once, group commit, and the List Filter."""
