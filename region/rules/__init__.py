"""Rules: what may be shown and how a slate is arranged, as pure functions of data."""
