"""A region node over a synthetic catalogue: what `bench region`, `bench index` and `bench degrade` measure."""
