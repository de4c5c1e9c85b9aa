"""The one kind of chance that an edge uses: spreading moments out, so that not everything happens at once."""

from collections.abc import Callable

Uniform = Callable[[float, float], float]
"""Given low and high, a number between them; `infra.plumbing.ids.uniform` in production, a seeded one in tests."""
