"""Where samples come from and in what order: NumPy batches for every framework."""
