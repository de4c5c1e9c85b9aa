"""Settings of one region node: its API, its worker and its retrieval process read the same file."""

from typing import Annotated

import msgspec

from infra.contracts.events import EVENTS_PER_BATCH_MAX
from infra.contracts.residency import ExportPolicy
from infra.plumbing.http.tls import ClientTls, ListenTls
from infra.plumbing.telemetry import TelemetrySettings
from region.keeping.key_service import KeyServiceSettings

DAY_S = 86_400.0
Retention = Annotated[float, msgspec.Meta(gt=0.0, le=365 * DAY_S)]
"""Behaviour is kept 24 months at most: a row may live this long after its youngest entry, which may be as old."""


class PrecomputeSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Lists made ahead for who is likely to come (`region.precompute`), and what they may cost a node."""

    enabled: bool = False
    hours_utc: tuple[Annotated[int, msgspec.Meta(ge=0, le=23)], ...] = tuple(range(24))
    """Hours of the day in which lists are made: the region's quiet ones."""
    horizon_s: Annotated[float, msgspec.Meta(gt=0.0, le=6 * 3600.0)] = 3600.0
    """Who is likely to come within so long gets a list, and the list is good for so long."""
    chance_min: Annotated[float, msgspec.Meta(ge=0.0, le=1.0)] = 0.2
    lists_per_round: Annotated[int, msgspec.Meta(ge=1, le=10_000)] = 200
    """A round is a minute, or as long as its lists take."""
    lists_per_s: Annotated[float, msgspec.Meta(gt=0.0, le=1000.0)] = 20.0
    requests_per_s_max: Annotated[float, msgspec.Meta(gt=0.0, le=10_000.0)] = 20.0
    """While the node is asked for more lists a second than this, or has any to compute, none is made ahead."""
    cpu_share: Annotated[float, msgspec.Meta(gt=0.0, le=1.0)] = 0.2
    """Of one core: after each list the node rests so long that no more is used."""

    def is_off_peak(self, hour: int) -> bool:
        """Whether lists are made in this hour of the day (UTC)."""
        return hour in self.hours_utc


class ExtractSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What bounds an extract for central (`region.extracts`), beyond the export policy that allows it."""

    users_min: Annotated[int, msgspec.Meta(ge=5, le=100_000)] = 20
    """Items, and pairs of items, that fewer people have are left out."""
    epsilon: Annotated[float, msgspec.Meta(gt=0.0, lt=2.0)] = 1.0
    """Of one extract of aggregates, half of it for items and half for pairs."""
    delta: Annotated[float, msgspec.Meta(gt=0.0, le=1e-4)] = 1e-6
    epsilon_a_year_max: Annotated[float, msgspec.Meta(gt=0.0, le=100.0)] = 4.0
    """Of all extracts of aggregates of 365 days together (their epsilons add up, and so do their deltas)."""
    items_per_user_max: Annotated[int, msgspec.Meta(ge=1, le=200)] = 20
    """Of each person's distinct items, the latest, are counted; more means more noise."""
    paired_per_user_max: Annotated[int, msgspec.Meta(ge=2, le=20)] = 6
    """Pairs are counted among so many of them."""
    paired_items_max: Annotated[int, msgspec.Meta(ge=2, le=2000)] = 500
    """Pairs are counted among the so many most frequent items."""
    users_max: Annotated[int, msgspec.Meta(ge=1, le=100_000_000)] = 20_000_000
    """A region with more users gives no extract, and says so: half a walk would be a biased one."""


class RegionChoices(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What whoever answers for a region decides of its nodes, whoever starts them.

    In a world it stands in `[regions.settings]` of `world.toml`.
    """

    rules_file: str = ""
    """The region's first rules (YAML, see `region/rules/README.md`) until some are published; empty: the release's."""
    history_max: Annotated[int, msgspec.Meta(ge=1, le=100_000)] = 200
    """Interactions that a row keeps, the latest; every one more makes every read of every row longer."""
    event_weights_file: str = ""
    """The region's own weights (TOML, as `infra/contracts/event_weights.toml`); empty: the shipped ones."""
    log_retention_s: Annotated[float, msgspec.Meta(gt=0.0, le=730 * DAY_S)] = 365 * DAY_S
    """How long the log keeps an event after its receipt: 24 months at most."""
    behaviour_life_s: Retention = 365 * DAY_S
    """How long an interaction may stand in a history after its receipt, and a row after the last event."""
    rest_rotation_h: Annotated[float, msgspec.Meta(ge=0.0, le=8760.0)] | None = None
    """So many hours after it was made the worker makes the region's rest key anew, if anybody was erased since: with it
    goes what Cassandra still has of erased keys, and `privacy receipt` gives a complete one. For a region whose nodes
    share one key file; with 0 it is left to `atoll keys rotate-rest`. None: an hour in a world on Cassandra, else 0."""
    session_life_s: Annotated[float, msgspec.Meta(gt=0.0, le=DAY_S)] = 1800.0
    """How long an anonymous session's row outlives its last event."""
    overwrite_freed_memory: bool = True
    """Whether the API and the worker write over memory that they free, so that no dump shows who was erased; see
    `region/keeping/wiping.py` for what it costs."""
    mapped_resident_mb_max: Annotated[int, msgspec.Meta(ge=64)] | None = None
    """What the mapped files of releases may take of this process's memory before their pages are let go of; they are
    views of the disk's cache. None: as much as the active release's files take (a gigabyte for each million items of
    64 dimensions), up to two thirds of the machine's memory (`region/funnel/paging.py`; `region status` and the log say
    what that is). Less makes lists of large catalogues slower: over 1 M items asked for evenly, 768 made 7.8 ms of 6.6
    (p50) and 19 of 10 (p99); over 10 M items, 2,048 made 19 ms of 8.8 (p50)."""
    intake_queue_max: Annotated[int, msgspec.Meta(ge=EVENTS_PER_BATCH_MAX, le=1_000_000)] = 2000
    """Events that may wait for the log; more are answered 503. A whole batch must have room, or it never had."""
    body_bytes_max: Annotated[int, msgspec.Meta(ge=64 << 10, le=64 << 20)] = 1 << 20
    precompute: PrecomputeSettings = PrecomputeSettings()
    """Lists made ahead; none unless it is enabled."""
    extracts: ExtractSettings = ExtractSettings()
    key_service: KeyServiceSettings | None = None
    """Where the root of all keys at rest lives, when that is not `keys_file` (which still holds the others)."""


class RegionSettings(RegionChoices, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file per node; the world writes them, an operator may."""

    node: str
    region: str
    host: str = "127.0.0.1"
    port: int
    tls: ListenTls | None = None
    """For the API; `doors` say which of its paths this region's edges, those of others and operators may call. None:
    plain HTTP."""
    worker_tls: ListenTls | None = None
    """The same for the worker's port."""
    worker_port: int
    """The worker's own port for `/metrics` and `/health`."""
    state_directory: str
    """Holds `store.sqlite`, `log.sqlite`, `releases/` and `tuf/`."""
    run_directory: str = ""
    """For Unix sockets, whose paths must be short (unix(7)); empty: the state directory."""
    repository_url: str
    repository_tls: ClientTls | None = None
    """For the release repository (write its URL with https)."""
    trusted_root: str
    channel: str = "stable"
    follow: bool = False
    """Pull and promote by itself whatever the channel points to, unless pinned."""
    poll_interval_s: Annotated[float, msgspec.Meta(ge=0.1, le=DAY_S)] = 5.0
    keys_file: str
    trust_file: str
    grid: str
    """`memory`, the path of the embedded grid's Unix socket, or `hazelcast://HOST:PORT/CLUSTER`."""
    store: str = "sqlite"
    """`sqlite` in the state directory, or `cassandra://HOST:PORT[,HOST:PORT]/KEYSPACE?data_center=NAME`."""
    store_tls: ClientTls | None = None
    """For Cassandra; its nodes ask for a certificate where they are mutual. None: plain CQL."""
    log: str = "sqlite"
    """`sqlite` in the state directory, or `kafka://HOST:PORT[,HOST:PORT]/TOPIC?partitions=4`."""
    log_tls: ClientTls | None = None
    """For Kafka, the same."""
    export_policy: str = ExportPolicy.NONE.value
    """What may be made of this region's data for central to learn from: `none`, `aggregates` or `pseudonymous`."""
    telemetry: TelemetrySettings = TelemetrySettings()

    def __post_init__(self) -> None:
        ExportPolicy.of(self.export_policy)  # msgspec turns its ValueError into a refusal that names the field

    @property
    def policy(self) -> ExportPolicy:
        """The export policy."""
        return ExportPolicy(self.export_policy)
