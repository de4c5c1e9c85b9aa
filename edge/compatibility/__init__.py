"""Doors for clients that people have already: Amazon Personalize and Gorse, on the same answers as our own API."""
