"""Releases: export, index, bundle."""
