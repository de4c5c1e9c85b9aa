"""Finding one's way: what to choose from at the start, answers for everybody kept for a moment."""
