"""Servers, rivals and load of the measurements of the edge."""
