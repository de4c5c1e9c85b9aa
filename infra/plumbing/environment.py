"""The only place that reads the environment of the process."""

import os
from collections.abc import Mapping


def environment_with(additions: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `additions` over it, for a child process."""
    return {**os.environ, **additions}
