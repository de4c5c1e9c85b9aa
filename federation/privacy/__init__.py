"""Differential privacy: clipping, noise, accountant and ledger."""
