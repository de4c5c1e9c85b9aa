"""Settings of one edge node."""

import msgspec

from infra.plumbing.http.tls import ClientTls, ListenTls
from infra.plumbing.telemetry import TelemetrySettings


class EdgeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file per node; the world writes them, an operator may."""

    node: str
    region: str
    host: str = "127.0.0.1"
    port: int
    tls: ListenTls | None = None
    """None: plain HTTP, behind a balancer that ends TLS, or on one machine."""
    regions_tls: ClientTls | None = None
    """For calls to regions (write their URLs with https)."""
    repository_tls: ClientTls | None = None
    """For the release repository."""
    body_timeout_s: float = 5.0
    """How long a caller may take for a body."""
    state_directory: str
    """For TUF metadata and the release's lists."""
    home_urls: tuple[str, ...]
    """Base URLs of the nodes of this region's API, first choice first."""
    away_urls: dict[str, tuple[str, ...]]
    """The same for every other region, by its name, nearest region first."""
    repository_url: str
    trusted_root: str
    """Path of the TUF root metadata that came with the installation."""
    channel: str = "stable"
    keys_file: str
    trust_file: str
    service_keys_file: str = ""
    """Keys of services that call this region's edges (`./atoll keys service`); followed as it changes. Empty: none."""
    grid: str
    """`memory`, or the path of the embedded grid's Unix socket."""
    cache_bytes_max: int = 64 << 20
    deadline_ms: int = 150
    """How long a caller waits at most; every call behind the edge gets what is left of it."""
    probe_interval_s: float = 0.5
    body_bytes_max: int = 256 << 10
    fill_deadline_ms: int = 400
    """How long one fill of the cache may take; longer than a caller waits, so that slow work is not thrown away."""
    try_timeout_ms: int = 150
    """How long one node of a region may take while another node could be asked instead."""
    connect_timeout_ms: int = 50
    """Raise it where regions are far apart: a TCP handshake is one round trip."""
    grid_timeout_ms: float = 5.0
    event_deadline_ms: int = 1000
    """Events wait for durable storage, so they get longer than a page view."""
    bulk_calls_max: int = 4
    """Bulk calls under way at once."""
    bulk_width: int = 8
    """Lines of one bulk call that are worked on at once."""
    bulk_deadline_ms: int = 1000
    connections_per_node_max: int = 100
    fills_max: int = 4000
    """Fills under way at once; a miss beyond it goes down the ladder."""
    away_list_life_s: float = 3.0
    """How long a list of another region may be kept while the home region is gone."""
    notices_poll_s: float = 10.0
    """How often to ask the home region what may have been missed, while the grid carries messages."""
    lists_poll_s: float = 5.0
    """How often to look for the release's lists while they are missing."""
    warm_within_s: float = 2.0
    """How long filling the cache with what was in demand before the last stop may keep a node from being ready."""
    drain_notice_s: float = 0.8
    """After SIGTERM: how long `/health/ready` says 503 before anything else changes. A balancer must look within it."""
    drain_s: float = 0.5
    """After that: how long answers go on, each with `Connection: close`."""
    hot_path: bool = True
    """Whether plain requests for cached lists are answered past aiohttp's parser; false to compare the two."""
    large_pages: bool = True
    """Whether the cache's memory is exchanged for pages of 2 MiB as it fills, where the kernel can (Linux 6.1)."""
    requests_per_caller_s: float = 200.0
    burst_per_caller: float = 400.0
    fills_per_list_s: float = 20.0
    burst_per_list: float = 40.0
    """How often one list may be asked of the region, whoever wants it: beyond that the ladder goes on without."""
    requests_per_address_s: float = 4000.0
    """For callers that show no token and no session: behind a balancer they share its address."""
    burst_per_address: float = 8000.0
    telemetry: TelemetrySettings = TelemetrySettings()
