"""Federation: learning from signals that never leave the phone or the region."""
