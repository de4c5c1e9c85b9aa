"""Which region answers: health, breaker, retry budget, the degradation ladder, and the calls themselves."""
