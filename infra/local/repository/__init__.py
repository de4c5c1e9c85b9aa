"""Central's release repository, given out as the static files that it is."""
