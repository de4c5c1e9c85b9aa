"""The rooms' own loggers speak as the process does."""

import contextlib
import logging
from collections.abc import Iterator


@contextlib.contextmanager
def rooms_logging_to(logger: logging.Logger) -> Iterator[None]:
    """Let the rooms' own loggers speak as the process does: one JSON object a line."""
    rooms = logging.getLogger("region")
    before = rooms.propagate
    for handler in logger.handlers:
        rooms.addHandler(handler)
    rooms.propagate = False
    handlers = tuple(logger.handlers)
    try:
        yield
    finally:
        rooms.propagate = before
        for handler in handlers:
            rooms.removeHandler(handler)
