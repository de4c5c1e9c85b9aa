"""What is known of a world: its processes as planned (`world.json`) and as they are now (`world status`)."""

import enum

import msgspec

from infra.local.configuration import WorldConfiguration


class Part(enum.StrEnum):
    """What a process is in its region, or among the shared ones."""

    GRID = "grid"
    STORE = "store"
    LOG = "log"
    API = "api"
    WORKER = "worker"
    EDGE = "edge"
    GATEWAY = "gateway"
    SUPERNODE = "supernode"
    BALANCER = "balancer"
    REPOSITORY = "repository"
    WAN = "wan"
    SUPERLINK = "superlink"


CORE_PARTS = frozenset({Part.GRID, Part.STORE, Part.API, Part.WORKER})
KILLABLE: dict[str, frozenset[Part]] = {
    "all": frozenset({Part.GRID, Part.STORE, Part.API, Part.WORKER, Part.EDGE, Part.GATEWAY, Part.SUPERNODE}),
    "core": CORE_PARTS,
    "edges": frozenset({Part.EDGE}),
    "grid": frozenset({Part.GRID}),
    "store": frozenset({Part.STORE}),
    "api": frozenset({Part.API}),
    "worker": frozenset({Part.WORKER}),
    "gateway": frozenset({Part.GATEWAY}),
    "supernode": frozenset({Part.SUPERNODE}),
    "superlink": frozenset({Part.SUPERLINK}),
}
"""What `world kill REGION --part NAME` takes down; `core` is the region without edges, gateway and SuperNode."""


class ProbeKind(enum.StrEnum):
    """How the supervisor learns that a process lives and is ready."""

    HTTP = "http"
    """GET /health/ready."""
    HTTPS = "https"
    """The same over TLS, with the supervisor's certificate."""
    TCP = "tcp"
    """Somebody accepts connections at a port."""
    UNIX = "unix"
    """Somebody accepts connections at a Unix socket."""


class ProcessPlan(msgspec.Struct, frozen=True, kw_only=True):
    """One process to keep running."""

    name: str
    part: Part
    command: tuple[str, ...]
    probe: ProbeKind
    address: str
    """`host:port` or the path of a socket."""
    region: str = ""
    environment: dict[str, str] = {}
    """Variables beside those of the supervisor."""
    stage: int = 0
    """Processes of a stage start when everything of the stages before it lives."""


class RestartPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """How a process that ended by itself is started again."""

    first_delay_s: float = 0.3
    factor: float = 2.0
    delay_max_s: float = 10.0
    crashes_max: int = 8
    """So many crashes within `window_s` and the process is left down."""
    window_s: float = 120.0


class WorldRecord(msgspec.Struct, frozen=True, kw_only=True):
    """`world.json`: everything that the supervisor and the clients need to know."""

    configuration: WorldConfiguration
    ports: dict[str, int]
    processes: tuple[ProcessPlan, ...]
    working_directory: str
    restart: RestartPolicy = RestartPolicy()
    eased_s: float = 30.0
    """How long a process that comes back runs at lower priority at most, so that the others keep their latency; it has
    the same as they when it is ready."""
    output_bytes_max: int = 32 << 20
    """What one log, span or output file may hold; then its older half goes."""


class ProcessState(enum.StrEnum):
    """Where a process is in its life."""

    WAITING = "waiting"
    """For the stages before it."""
    STARTING = "starting"
    LIVE = "live"
    """Answers, but is not ready for work yet; `detail` says what it waits for."""
    READY = "ready"
    DRAINING = "draining"
    """Told to end by `world restart`; starts again when it has."""
    CRASHED = "crashed"
    """Will be started again after a pause."""
    GAVE_UP = "gave-up"
    """Crashed too often; `world heal` tries again."""
    KILLED = "killed"
    """By `world kill`; stays down until `world heal`."""


class ProcessStatus(msgspec.Struct, frozen=True, kw_only=True):
    """One process now."""

    name: str
    part: Part
    region: str
    state: ProcessState
    pid: int | None
    address: str
    restarts: int
    rss_mb: float
    """Proportional share of the process and everything it started, where the kernel tells it; else resident size."""
    detail: str = ""


class WorldStatus(msgspec.Struct, frozen=True, kw_only=True):
    """The world now."""

    state_directory: str
    supervisor_pid: int
    ready: bool
    """Everything that was not killed on purpose is ready."""
    live: bool
    """Everything that was not killed on purpose answers."""
    processes: tuple[ProcessStatus, ...]
    balancer_url: str
    repository_url: str
    region_urls: dict[str, str]
    edge_urls: dict[str, tuple[str, ...]]
    gateway_urls: dict[str, str]
    export_policies: dict[str, str]
    """What each region lets out for central to learn from."""
    authority: str
    """Certificate of whom callers must trust, in a world with TLS; else empty."""
    ports: dict[str, int]
    rss_mb: float
    peak_rss_mb: float
    restarts: int
    files_cut: int
    """How often a log, span or output file hit its bound."""
