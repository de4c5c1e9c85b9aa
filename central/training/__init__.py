"""Training: retrieval towers, ranker, item-to-item lists."""
