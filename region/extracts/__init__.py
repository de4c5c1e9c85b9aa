"""What central may learn from this region, as far as its export policy goes: extracts of resident histories."""
