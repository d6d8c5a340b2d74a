"""apply(state, entry): the only writer of state; a module for each noun that history knows."""
