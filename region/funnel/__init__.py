"""The funnel: from a request and a user row to a slate, by stages that can each fail without failing the answer."""
