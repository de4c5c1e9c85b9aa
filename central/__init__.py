"""Central: from interactions to a signed release."""
