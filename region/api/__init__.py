"""The region over HTTP: the home door, the door for other regions, and the operators door."""
