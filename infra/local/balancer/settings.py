"""Settings of the embedded balancer."""

from typing import Annotated

import msgspec

from infra.local.running import LocalSettings
from infra.plumbing.http.tls import ClientTls, ListenTls

Seconds = Annotated[float, msgspec.Meta(gt=0.0, le=60.0)]


class EdgeAddress(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One edge behind the balancer."""

    name: str
    host: str
    port: int


class BalancedRegion(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A region and where its calls go when none of its edges answers."""

    name: str
    edges: tuple[EdgeAddress, ...]
    nearest: tuple[str, ...] = ()
    """Other regions, nearest first."""


class AddressRange(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Clients of a network belong to a region."""

    network: str
    """CIDR, IPv4 or IPv6."""
    region: str


class BalancerSettings(LocalSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file; the world writes it, an operator may."""

    host: str = "127.0.0.1"
    port: int
    tls: ListenTls | None = None
    """For callers; None: plain HTTP."""
    edges_tls: ClientTls | None = None
    """For calls to edges, which are then made by https."""
    regions: Annotated[tuple[BalancedRegion, ...], msgspec.Meta(min_length=1)]
    """The first one takes the calls of clients that nothing is known about."""
    addresses: tuple[AddressRange, ...] = ()
    """First match wins; a client that names its region in `Atoll-Client-Region` is believed before."""
    connect_timeout_s: Seconds = 0.25
    answer_timeout_s: Seconds = 2.0
    """From the request sent to the head of the answer; then another edge is asked, if the call may be repeated."""
    list_timeout_s: Seconds = 0.6
    """The same for lists, which an edge answers within its own deadline; while the retry budget lasts."""
    load_factor: Annotated[float, msgspec.Meta(gt=1.0, le=10.0)] = 1.25
    """No edge of a region carries more than this times the mean of its region's calls in flight."""
    slow_start_s: Annotated[float, msgspec.Meta(ge=0.0, le=300.0)] = 3.0
    """Over so long an edge that came back gets its calls again, a growing share of them."""
    probe_interval_s: Seconds = 0.5
    probe_timeout_s: Seconds = 0.5
    attempts_max: Annotated[int, msgspec.Meta(ge=1, le=16)] = 5
    request_bytes_max: int = 1 << 20
    """Larger bodies are refused; smaller ones are held, so that the call can be repeated."""
    answer_held_bytes_max: int = 512 << 10
    """Answers up to this size are read whole before they are passed on, so that a break can still be repaired."""
    connections_per_edge_max: int = 256
    calls_in_flight_max: int = 2000
    repeatable_posts: tuple[str, ...] = ("/v1/events", "/v1/recommendations")
    """POST paths that may be repeated: events count once by their id, recommendations change nothing."""
