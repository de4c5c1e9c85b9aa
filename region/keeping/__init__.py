"""What a region keeps of its people lies under keys: files encrypted at rest, every subject's events under its own."""
