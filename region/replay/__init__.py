"""Replay: the served funnel over recorded requests, for offline evaluation."""
