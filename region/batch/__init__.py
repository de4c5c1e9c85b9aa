"""Batch features: the streaming features once more, for all subjects at once, in Ibis (DuckDB, or Spark unchanged)."""
