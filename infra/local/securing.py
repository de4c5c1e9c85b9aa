"""Who may call whom in a world with TLS: every process's certificate, and which doors it opens. Pure.

==========================  ============================================================================
a door                      is opened by the certificate of
==========================  ============================================================================
balancer                    everybody, with a certificate or without (`/metrics`: watchers)
edge                        the balancer, watchers
region API `/v1/...`        the region's own edges
  `/v1/away`, `/v1/relay`   edges of other regions (by the links that lead to this one)
  `/v1/resident/...`        the region's gateway, for rounds over resident features
  `/operator/...`           the operator
gateway `/v1/device/...`    everybody: phones have tokens and tickets, no certificates
  rounds                    the region's SuperNode
release repository          the regions (by their links to central)
a link                      processes of the region it begins in, the operator
`/metrics`, `/health`       watchers
==========================  ============================================================================

Watchers are the supervisor (which also scrapes) and the operator. Tokens, service keys and operator keys hold as they
do without TLS: a certificate takes the place of none of them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.local.certificates import certificate_file
from infra.local.configuration import CENTRAL, WorldConfiguration
from infra.local.wan.securing import LinkTls
from infra.plumbing.http.tls import ClientTls, Door, ListenTls

SUPERVISOR, OPERATOR = "supervisor", "operator"
WATCHERS = (SUPERVISOR, OPERATOR)
BALANCER, REPOSITORY, WAN = "balancer", "repository", "wan"
WATCHED = (Door(prefix="/", names=WATCHERS),)
"""Processes that have nothing but `/metrics` and `/health`."""


def link_identity(origin: str, destination: str) -> str:
    """Name in a link's certificate."""
    return f"link/{origin}--{destination}"


def supernode_of(region: str) -> str:
    """Name in the certificate of what asks a region's gateway for rounds."""
    return f"{region}/supernode"


def balancer_doors() -> tuple[Door, ...]:
    """See the table."""
    return Door(prefix="/metrics", names=WATCHERS), Door(prefix="/")


def edge_doors() -> tuple[Door, ...]:
    """See the table."""
    return (Door(prefix="/", names=(BALANCER, *WATCHERS)),)


def region_doors(region: str) -> tuple[Door, ...]:
    """See the table; with links in front of a region's API for its own edges, theirs is the edges' word."""
    home = (f"{region}/edge-*", link_identity(region, region))
    away = (link_identity("*", region),)
    return (
        Door(prefix="/health/", names=(*home, *away, *WATCHERS)),
        Door(prefix="/operator/", names=(OPERATOR,)),
        Door(prefix="/v1/away", names=away),
        Door(prefix="/v1/relay", names=away),
        Door(prefix="/v1/resident/", names=(f"{region}/gateway",)),
        Door(prefix="/v1/", names=home),
        Door(prefix="/metrics", names=WATCHERS),
    )


def gateway_doors(region: str) -> tuple[Door, ...]:
    """See the table."""
    return (
        Door(prefix="/v1/device/"),
        Door(prefix="/v1/rounds", names=(supernode_of(region),)),
        Door(prefix="/silo/", names=(supernode_of(region),)),
        Door(prefix="/", names=WATCHERS),
    )


def repository_doors() -> tuple[Door, ...]:
    """See the table."""
    regions = (link_identity("*", CENTRAL), OPERATOR)
    return (
        Door(prefix="/metadata/", names=regions), Door(prefix="/targets/", names=regions),
        Door(prefix="/", names=WATCHERS),
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Securing:
    """TLS settings of a world's processes; everything is None in a world without."""

    directory: Path
    """Holds the certificates."""
    enabled: bool

    @property
    def scheme(self) -> str:
        """Of every address."""
        return "https" if self.enabled else "http"

    def listen(self, name: str, doors: tuple[Door, ...]) -> ListenTls | None:
        """How the process `name` is served."""
        return self._listen(name, doors) if self.enabled else None

    def connect(self, name: str, *server_names: str) -> ClientTls | None:
        """How the process `name` calls processes of these names."""
        return self._connect(name, server_names) if self.enabled else None

    def link(self, origin: str, destination: str, target: str) -> LinkTls | None:
        """How a link speaks with both ends; `target` is the name of its far end."""
        if not self.enabled:
            return None
        name = link_identity(origin, destination)
        inside = Door(prefix="/", names=(f"{origin}/*", OPERATOR))
        return LinkTls(listen=self._listen(name, (inside,)), connect=self._connect(name, (target,)))

    def trusting(self) -> ClientTls | None:
        """For callers without a certificate of their own: applications and phones."""
        return ClientTls(ca_file=str(self.authority)) if self.enabled else None

    @property
    def authority(self) -> Path:
        """Certificate of the world's authority."""
        return self.directory / "authority.pem"

    def _listen(self, name: str, doors: tuple[Door, ...]) -> ListenTls:
        own = str(certificate_file(self.directory, name))
        return ListenTls(certificate_file=own, key_file=own, client_ca_file=str(self.authority), doors=doors)

    def _connect(self, name: str, server_names: tuple[str, ...]) -> ClientTls:
        own = str(certificate_file(self.directory, name))
        return ClientTls(
            ca_file=str(self.authority), certificate_file=own, key_file=own, server_names=server_names
        )  # fmt: skip


def identities(configuration: WorldConfiguration, links: Iterator[tuple[str, str]]) -> Iterator[str]:
    """Every name that a world's authority gives a certificate to."""
    yield from (SUPERVISOR, OPERATOR, BALANCER, REPOSITORY, WAN)
    for region in configuration.regions:
        for part in ("grid", "api", "worker", "gateway", "supernode"):
            yield f"{region.name}/{part}"
        yield from (f"{region.name}/edge-{number}" for number in range(1, region.edges + 1))
    for origin, destination in links:
        yield link_identity(origin, destination)
