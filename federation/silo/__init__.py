"""A region as one silo: it learns from its resident features, and gives away one clipped, noised sum."""
