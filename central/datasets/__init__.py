"""Datasets: import, validate, describe, load."""
