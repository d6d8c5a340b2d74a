"""The network speaks: decode, call one service function, encode; no decisions."""
