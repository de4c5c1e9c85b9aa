"""Sampled requests with the feature values that answered them: what a parity check replays."""
