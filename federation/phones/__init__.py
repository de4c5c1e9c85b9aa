"""Many simulated phones in one process."""
