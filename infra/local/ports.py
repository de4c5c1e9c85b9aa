"""Which process listens where: configured ports, ports used last time, or free ones."""

import errno
import socket
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from infra.local.configuration import PortsConfiguration, WorldConfigurationError

_EPHEMERAL_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST = 20_000
_HIGHEST = 65_535


class PortInUseError(WorldConfigurationError):
    """A port that the configuration names is taken by another process."""


def is_port_free(host: str, port: int) -> bool:
    """Whether a server could bind `host:port` now.

    Raises:
        WorldConfigurationError: `host` is not an address of this machine.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        # As servers do it: a port whose old connections linger in TIME_WAIT is free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            if error.errno in (errno.EADDRINUSE, errno.EACCES):
                return False
            raise WorldConfigurationError(
                f"nothing can listen on {host!r}: {error.strerror}.", fix="Set host to an address of this machine."
            ) from error
    return True


def assign_ports(
    names: Iterable[str],
    *,
    configured: PortsConfiguration,
    previous: Mapping[str, int],
    seed: str,
    is_free: Callable[[int], bool],
    ephemeral_from: int | None = None,
) -> dict[str, int]:
    """A port for every name: the configured one, else the one of last time if it is free, else a free one.

    Free ones are taken below the range from which the kernel draws source ports of outgoing connections: a region
    that is down would otherwise lose its ports to the load that goes on around it, and could not come back.

    Args:
        names: every listener; ``balancer`` and ``repository`` may have ports of their own in `configured`.
        configured: what the configuration says.
        previous: ports of the last start.
        seed: spreads worlds that start at the same moment over the range (the state's path).
        is_free: whether a port can be bound.
        ephemeral_from: first source port of the kernel; None asks the kernel.

    Raises:
        PortInUseError: a configured port is taken.
        WorldConfigurationError: there are not enough free ports.
    """
    wanted = list(names)
    fixed = _configured_ports(wanted, configured)
    for name, port in fixed.items():
        if not is_free(port):
            raise PortInUseError(
                f"port {port}, configured for {name}, is in use.",
                fix="Stop what uses it (`ss -ltnp` shows it), or set another port or 0 in the configuration.",
            )
    taken = set(fixed.values())
    ports = dict(fixed)
    candidates = _candidates(seed, _ephemeral_from() if ephemeral_from is None else ephemeral_from)
    for name in wanted:
        if name in ports:
            continue
        last = previous.get(name, 0)
        port = last if last and last not in taken and is_free(last) else _next_free(candidates, taken, is_free)
        ports[name] = port
        taken.add(port)
    return ports


def _configured_ports(names: list[str], configured: PortsConfiguration) -> dict[str, int]:
    fixed = {"balancer": configured.balancer, "repository": configured.repository}
    ports = {name: port for name, port in fixed.items() if port and name in names}
    if configured.first:
        following = (port for port in range(configured.first, _HIGHEST + 1) if port not in ports.values())
        for name in names:
            if name not in ports:
                ports[name] = _take(following)
    return ports


def _take(ports: Iterator[int]) -> int:
    port = next(ports, None)
    if port is None:
        raise WorldConfigurationError("there are not enough ports.", fix="Set ports.first lower, or 0.")
    return port


def _next_free(candidates: Iterator[int], taken: set[int], is_free: Callable[[int], bool]) -> int:
    return _take(port for port in candidates if port not in taken and is_free(port))


def _candidates(seed: str, ephemeral_from: int) -> Iterator[int]:
    end = ephemeral_from if ephemeral_from > _LOWEST + 1000 else _HIGHEST
    span = end - _LOWEST
    start = zlib.crc32(seed.encode()) % span
    return (_LOWEST + (start + offset) % span for offset in range(span))


def _ephemeral_from() -> int:
    try:
        return int(_EPHEMERAL_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return 32_768
