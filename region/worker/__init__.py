"""The worker: the one process of a node that applies the log to the store."""
