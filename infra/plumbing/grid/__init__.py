"""The grid: what the edges of one region share, and how invalidations reach them."""
