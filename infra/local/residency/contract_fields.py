"""Which names of JSON keys belong to fields that may not leave a region; computed from the contracts themselves."""

import functools
import importlib
from collections.abc import Iterator

from infra.contracts.residency import DeviceRecord, RegionalMessage, Residency, residency_of

MESSAGE_MODULES = (
    "infra.contracts.discovery",
    "infra.contracts.events",
    "infra.contracts.lists",
    "infra.contracts.messages",
    "infra.contracts.release",
    "federation.messages",
    "federation.secure_aggregation.identity",
    "federation.secure_aggregation.messages",
    "region.api.messages",
    "region.events.dead_letters",
    "region.events.port",
    "region.releases.messages",
    "region.store.port",
)
"""Where messages are defined; a module without messages does no harm here."""

PROBLEM_FIELDS = frozenset({"type", "title", "status", "detail", "instance", "request_id"})
"""A problem document (RFC 9457, infra.plumbing.http.problems) names the failed call, and nobody."""


@functools.cache
def resident_names() -> frozenset[str]:
    """Names of `device` and `region` fields of all messages, less those that are `global` in some message.

    Raises:
        ImportError: a module of messages cannot be loaded.
    """
    for module in MESSAGE_MODULES:
        importlib.import_module(module)
    resident: set[str] = set()
    everywhere: set[str] = set()
    for message in _subclasses(RegionalMessage, DeviceRecord):
        for name, residency in residency_of(message).items():
            (everywhere if residency is Residency.GLOBAL else resident).add(name)
    return frozenset(resident - everywhere)


def is_problem(keys: frozenset[str]) -> bool:
    """Whether an object with these keys is a problem document."""
    return keys <= PROBLEM_FIELDS and {"title", "status"} <= keys


def _subclasses(
    *bases: type[RegionalMessage] | type[DeviceRecord],
) -> Iterator[type[RegionalMessage] | type[DeviceRecord]]:
    for base in bases:
        for message in base.__subclasses__():
            if message.__module__ in MESSAGE_MODULES:
                yield message
            yield from _subclasses(message)
