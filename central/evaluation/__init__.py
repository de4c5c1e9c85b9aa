"""Evaluation: metrics, baselines, gates, served figures."""
