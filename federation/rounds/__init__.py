"""Rounds: the state machine of a cohort, the sum, the server's step and the outcome. No I/O but the outcome's file."""
