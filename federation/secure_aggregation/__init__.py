"""Secure aggregation: the gateway learns the sum of the phones' updates and none of them. No I/O in here."""
