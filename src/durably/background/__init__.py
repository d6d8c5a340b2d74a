"""The clock and the committed rows speak."""
