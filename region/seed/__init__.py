"""The seed: an existing history becomes the rows of this region's users."""
