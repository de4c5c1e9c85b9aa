"""The store: one row per subject, resident in the region."""
