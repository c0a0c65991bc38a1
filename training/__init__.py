"""The framework-free core of a run: what to train, the loop, checkpoints, the replay that verify reads."""
