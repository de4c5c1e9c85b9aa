"""Lists kept at the edge: freshness, the in-process cache, the grid, coalescing, invalidation, hard filters."""
