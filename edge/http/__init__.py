"""The edge's door: parsing, identity, rendering, routes."""
