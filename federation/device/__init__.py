"""What a phone runs: its store, its training, its portable vector. NumPy and LiteRT only."""
