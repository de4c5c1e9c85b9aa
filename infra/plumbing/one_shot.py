"""Programs that do one thing, print what came of it as one JSON object, and end."""

import sys
from collections.abc import Callable

import msgspec

from infra.plumbing.errors import AtollError


def print_report(make: Callable[[], object]) -> int:
    """Print what `make` returns as one line of JSON; returns the exit code.

    What cannot be done is one line on standard error, and 2.
    """
    try:
        report = make()
    except (AtollError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    sys.stdout.write(f"{msgspec.json.encode(report).decode()}\n")
    return 0
