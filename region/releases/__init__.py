"""Releases in a region: pulled, verified, activated by a reference swap, rolled back by the same swap (MISSION D4)."""
