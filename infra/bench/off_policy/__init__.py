"""What the off-policy measurement runs in an environment of its own."""
