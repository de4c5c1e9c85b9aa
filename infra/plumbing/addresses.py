"""Addresses of outside parts, as settings write them: `cassandra://host:9042,host:9042/keyspace?data_center=us-east`."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from urllib.parse import parse_qsl, urlsplit

from infra.plumbing.errors import SettingsError

HOSTS_MAX = 64


@dataclass(frozen=True, slots=True)
class PartAddress:
    """One outside part: where its servers are, which of its spaces is meant, and further options."""

    scheme: str
    hosts: tuple[tuple[str, int], ...]
    name: str
    """A keyspace, a topic, a cluster."""
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def host_ports(self) -> list[str]:
        """`host:port` of every server."""
        return [f"{host}:{port}" for host, port in self.hosts]

    def option(self, name: str) -> str:
        """An option that must be there.

        Raises:
            SettingsError: it is not.
        """
        value = self.options.get(name, "")
        if not value:
            raise SettingsError(f"the {self.scheme} address names no {name}.", fix=f"Append ?{name}=... to it.")
        return value

    def number(self, name: str, default: int) -> int:
        """An option that is a whole number from 1 up.

        Raises:
            SettingsError: it is something else.
        """
        word = self.options.get(name, str(default))
        if not word.isdecimal() or int(word) < 1:
            raise SettingsError(
                f"{name} of the {self.scheme} address is {word!r}.", fix=f"Write {name}={default}, say."
            )
        return int(word)


def scheme_of(address: str) -> str:
    """`cassandra` of `cassandra://...`; empty for what is no such address (a path, a word)."""
    scheme, separator, _ = address.partition("://")
    return scheme if separator else ""


def parse_address(address: str, *, scheme: str, options: frozenset[str] = frozenset()) -> PartAddress:
    """Read an address of the form `scheme://host:port[,host:port...]/name[?option=value&...]`.

    Args:
        address: as it stands in the settings.
        scheme: what it must begin with.
        options: names that may stand behind the question mark.

    Raises:
        SettingsError: it has another form; says which is right.
    """
    form = f"{scheme}://HOST:PORT[,HOST:PORT]/NAME"
    parts = urlsplit(address)
    name = parts.path.strip("/")
    given = dict(parse_qsl(parts.query))
    hosts = [_host_and_port(word) for word in parts.netloc.split(",") if word]
    if parts.scheme != scheme or not name or not 1 <= len(hosts) <= HOSTS_MAX or None in hosts:
        raise SettingsError(f"{address!r} is no {scheme} address.", fix=f"Write it as {form}.")
    if unknown := sorted(set(given) - options):
        raise SettingsError(
            f"the {scheme} address has options that nobody knows: {', '.join(unknown)}.",
            fix=f"Known are: {', '.join(sorted(options)) or 'none'}.",
        )
    return PartAddress(scheme, tuple(host for host in hosts if host is not None), name, given)


def _host_and_port(word: str) -> tuple[str, int] | None:
    host, _, port = word.rpartition(":")
    if not host or not port.isdecimal() or not 0 < int(port) < 65_536:
        return None
    return host, int(port)
