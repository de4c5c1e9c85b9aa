"""Indexes against their rival at equal recall, and switched under answers: the parts of `bench index`."""
