"""One script per strategy, each read from top to bottom; `diff` two of them to see what a strategy is."""
