"""The only place that reads the environment of the process."""

import os
import sys
from collections.abc import Mapping

_LISTED = frozenset({"GLIBC_TUNABLES"})
"""Variables that hold several settings with colons between: ours are added to those that are there."""
OVERWRITING = {"PYTHONMALLOC": "malloc", "GLIBC_TUNABLES": "glibc.malloc.perturb=165:glibc.malloc.tcache_count=0"}
"""Has freed memory written over at once: Python takes every object's memory from the C library, which fills it when it
is freed (mallopt(3), M_PERTURB) and keeps no blocks aside that it would not fill. glibc only; elsewhere no effect."""

ONE_THREAD = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
"""Has NumPy multiply in the thread that asks. Its libraries would share a product out over a thread per core, which
wait for each other in a loop: for products as small as a request's that costs more than it saves, and takes the cores
from the requests beside it."""


def variable(name: str) -> str | None:
    """The environment's variable `name`; None where it is not set or empty."""
    return os.environ.get(name) or None


def environment_with(additions: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with `additions` over it, for a child process."""
    return {**os.environ, **additions}


def restart_with(additions: Mapping[str, str]) -> None:
    """Run this program anew with `additions` in its environment, as the same process; returns where they are there.

    What reads them (the C library, the interpreter) does so before the first line of a program.
    """
    missing = {name: value for name, value in additions.items() if not _has(name, value)}
    if missing:
        os.execve(sys.executable, [sys.executable, *sys.orig_argv[1:]], environment_with(_merged(missing)))


def _has(name: str, value: str) -> bool:
    held = os.environ.get(name, "")
    return held == value or (name in _LISTED and value in held)


def _merged(additions: Mapping[str, str]) -> dict[str, str]:
    return {
        name: f"{os.environ[name]}:{value}" if name in _LISTED and os.environ.get(name) else value
        for name, value in additions.items()
    }
