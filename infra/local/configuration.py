"""The one readable file that describes a world (`world.toml`), its defaults, and what makes it unusable."""

import re
from pathlib import Path

import msgspec

from infra.contracts.residency import ExportPolicy
from infra.local.choices import anchored, told
from infra.local.tiers import source_root
from infra.plumbing.errors import InvalidInputError, SettingsError
from infra.plumbing.files import write_atomically
from infra.plumbing.settings import load_settings
from region.settings import RegionChoices

REGIONS_MAX = 16
EDGES_MAX = 16
CENTRAL = "central"
CENTRAL_FLOWER = "central-flower"
"""The two far ends of links that are not regions: the release repository, and Flower's SuperLink."""
RESERVED_NAMES = frozenset({CENTRAL, CENTRAL_FLOWER, "logs", "spans", "capture", "run", "tls", "clocks", "federation"})
BALANCERS = ("embedded", "haproxy")
PHONES, SILO = "phones", "silo"
EXPORT_POLICIES = tuple(policy.value for policy in ExportPolicy)
STORES, GRIDS, LOGS = ("sqlite", "cassandra"), ("embedded", "hazelcast"), ("sqlite", "kafka")
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")

_REGION_NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
_REGION_NAME_CHARACTERS_MAX = 31


class WorldConfigurationError(InvalidInputError, SettingsError):
    """A world that cannot be built as described; says what is wrong and what to change."""


class RegionConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One region. Regions are listed from one end of the map to the other: neighbours in the list are near."""

    name: str
    edges: int = 2
    zip_digits: str = ""
    """First digits of the zip codes whose people live here; tells which users of a dataset are at home."""
    networks: tuple[str, ...] = ()
    """Client networks (CIDR) that the balancer sends here when the client does not name its region."""
    federation: str = PHONES
    """`silo`: takes part in rounds over its resident features, without phones; for regions that export nothing else."""
    export_policy: str = ExportPolicy.NONE.value
    """What may be made of the region's data for central to learn from (`./atoll region REGION extract`)."""
    settings: RegionChoices = RegionChoices()
    """What the region's own processes are told beyond that: lists made ahead, weights, retentions, a key service."""


class PortsConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Ports; 0 picks free ones, which are recorded in the state and used again at the next start."""

    first: int = 0
    """All ports that are not named below, one after the other from here."""
    balancer: int = 0
    repository: int = 0


class DirectoriesConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Folders; relative ones start at the folder of the configuration file, environments at the source tree."""

    state: str = ".atoll/world"
    repository: str = ".atoll/repository"
    environments: str = ".atoll/envs"
    """One virtual environment per tier (`edge`, `region`, ...); a tier without one uses the running interpreter."""
    servers: str = ""
    """Where `atoll servers start` keeps the servers that this world runs on; empty: it starts its own."""


class WorldConfiguration(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Everything that can be said about a world."""

    regions: tuple[RegionConfiguration, ...]
    balancer: str = "embedded"
    store: str = "sqlite"
    """`cassandra`: a cluster of its own per region (./atoll servers install)."""
    grid: str = "embedded"
    """`hazelcast`: one per region."""
    log: str = "sqlite"
    """`kafka`: one broker for this machine, a topic per region."""
    tls: bool = False
    """TLS between all processes, with a certificate for each from the world's own authority; callers use https."""
    federation: bool = False
    """Flower's SuperLink and a SuperNode for each region stand; otherwise each federated round brings its own."""
    host: str = "127.0.0.1"
    log_level: str = "INFO"
    channel: str = "stable"
    follow: bool = True
    """Regions pull and promote whatever the channel points to; false leaves that to the operator."""
    poll_interval_s: float = 5.0
    """How often a region that follows its channel asks central for something newer."""
    sample_ratio: float = 0.05
    """Share of requests whose spans are kept."""
    capture_bytes_max: int = 256 << 20
    """How much of each link between regions is kept for the residency scan; more is counted, not kept."""
    home_links: bool = False
    """Edges reach their own region's API over a link as well, so that it can be disturbed (`./atoll bench chaos`)."""
    clock_faults: bool = False
    """The wall clocks of the regions' processes can be stepped (`./atoll bench chaos`); needs a C compiler."""
    start_timeout_s: float = 120.0
    ports: PortsConfiguration = PortsConfiguration()
    directories: DirectoriesConfiguration = DirectoriesConfiguration()

    @property
    def region_names(self) -> tuple[str, ...]:
        """Names in the order of the file."""
        return tuple(region.name for region in self.regions)

    def region(self, name: str) -> RegionConfiguration:
        """The region called `name`.

        Raises:
            WorldConfigurationError: there is none.
        """
        for region in self.regions:
            if region.name == name:
                return region
        raise WorldConfigurationError(
            f"there is no region {name!r} in this world.", fix=f"Name one of {', '.join(self.region_names)}."
        )

    def nearest(self, name: str) -> tuple[str, ...]:
        """The other regions, nearest first; of two equally near ones, the one listed first."""
        names = self.region_names
        here = names.index(name)
        others = [other for other in names if other != name]
        return tuple(sorted(others, key=lambda other: abs(names.index(other) - here)))


def default_configuration() -> WorldConfiguration:
    """Three regions by MovieLens zip codes, two edges each, everything embedded, free ports."""
    return WorldConfiguration(
        regions=(
            RegionConfiguration(name="us-east", zip_digits="012"),
            RegionConfiguration(name="us-central", zip_digits="3456"),
            RegionConfiguration(name="us-west", zip_digits="789"),
        ),
    )


def load_configuration(path: Path) -> WorldConfiguration:
    """Read and check a `world.toml`; what it names by relative paths is taken from the file's own folder.

    Raises:
        SettingsError: the file is missing, is not TOML, or a field is missing, unknown, of the wrong type or unusable.
    """
    configuration = load_settings(path, WorldConfiguration)
    validate_configuration(configuration)
    base = path.resolve().parent
    regions = tuple(
        msgspec.structs.replace(region, settings=anchored(region.settings, base)) for region in configuration.regions
    )
    return with_absolute_directories(msgspec.structs.replace(configuration, regions=regions), base)


class _NamedDirectories(msgspec.Struct, frozen=True):
    state: str | None = None


class _Named(msgspec.Struct, frozen=True):
    directories: _NamedDirectories = _NamedDirectories()


def named_state(path: Path) -> Path | None:
    """The state directory that a `world.toml` names, absolute; None: it leaves that to whoever starts the world.

    Raises:
        SettingsError: as `load_configuration`.
    """
    named = load_settings(path, _Named).directories.state
    return None if named is None else path.resolve().parent / named


def with_absolute_directories(configuration: WorldConfiguration, base: Path) -> WorldConfiguration:
    """`configuration` with its directories taken from `base` where they are relative."""
    directories = configuration.directories
    return msgspec.structs.replace(
        configuration,
        directories=DirectoriesConfiguration(
            state=str(base / directories.state),
            repository=str(base / directories.repository),
            # Wherever the caller stands, the environments are those of the source tree.
            environments=str(source_root() / directories.environments),
            servers=str(base / directories.servers) if directories.servers else "",
        ),
    )


def validate_configuration(configuration: WorldConfiguration) -> None:
    """Check what types alone cannot.

    Raises:
        WorldConfigurationError: says which field is wrong and what it may be.
    """
    _require(
        1 <= len(configuration.regions) <= REGIONS_MAX,
        f"a world has 1 to {REGIONS_MAX} regions, this one has {len(configuration.regions)}.",
        "Add or remove [[regions]].",
    )
    _one_of("balancer", configuration.balancer, BALANCERS)
    _one_of("store", configuration.store, STORES)
    _one_of("grid", configuration.grid, GRIDS)
    _one_of("log", configuration.log, LOGS)
    _one_of("log_level", configuration.log_level, LOG_LEVELS)
    _require(0.0 <= configuration.sample_ratio <= 1.0, "sample_ratio is not between 0 and 1.", "Set 0.05, say.")
    _require(configuration.capture_bytes_max >= 1 << 20, "capture_bytes_max is under 1 MiB.", "Set it higher.")
    _require(configuration.poll_interval_s >= 0.1, "poll_interval_s is under 0.1.", "Set 5, say.")
    _require(configuration.start_timeout_s > 0, "start_timeout_s is not positive.", "Set 120, say.")
    _require(
        not (configuration.directories.servers and configuration.tls),
        "a world with TLS cannot run on servers that stand: they know none of its certificates.",
        "Leave directories.servers (--servers) away: it starts its own.",
    )
    _validate_regions(configuration.regions)
    _validate_ports(configuration.ports)


def _validate_regions(regions: tuple[RegionConfiguration, ...]) -> None:
    seen: set[str] = set()
    digits: dict[str, str] = {}
    for region in regions:
        named = _REGION_NAME.fullmatch(region.name) is not None and len(region.name) <= _REGION_NAME_CHARACTERS_MAX
        _require(
            named and region.name not in RESERVED_NAMES,
            f"{region.name!r} cannot be a region's name.",
            f"Use lower-case words joined by single hyphens, at most {_REGION_NAME_CHARACTERS_MAX} characters,"
            f" none of {', '.join(sorted(RESERVED_NAMES))}.",
        )
        _require(region.name not in seen, f"the region {region.name!r} is listed twice.", "Rename or remove one.")
        seen.add(region.name)
        _require(
            1 <= region.edges <= EDGES_MAX,
            f"region {region.name!r} has {region.edges} edges.",
            f"Set edges to 1 to {EDGES_MAX}.",
        )
        _one_of(f"federation of {region.name!r}", region.federation, (PHONES, SILO))
        _one_of(f"export_policy of {region.name!r}", region.export_policy, EXPORT_POLICIES)
        for digit in region.zip_digits:
            _require(digit.isdigit(), f"zip_digits of {region.name!r} holds {digit!r}.", "Use digits only.")
            other = digits.setdefault(digit, region.name)
            _require(
                other == region.name,
                f"zip digit {digit} belongs to both {other!r} and {region.name!r}.",
                "Leave it in one of them.",
            )


def _validate_ports(ports: PortsConfiguration) -> None:
    named = {"first": ports.first, "balancer": ports.balancer, "repository": ports.repository}
    for name, port in named.items():
        _require(
            port == 0 or 1024 <= port <= 65_535, f"ports.{name} is {port}.", "Use 0 (any free one) or 1024 to 65535."
        )
    fixed = [port for port in (ports.balancer, ports.repository) if port]
    _require(len(fixed) == len(set(fixed)), "ports.balancer and ports.repository are the same.", "Change one.")


def _one_of(field: str, value: str, allowed: tuple[str, ...]) -> None:
    _require(value in allowed, f"{field} is {value!r}.", f"Use one of {', '.join(allowed)}.")


def _require(holds: bool, message: str, fix: str) -> None:  # noqa: FBT001 - reads as a sentence where it is called
    if not holds:
        raise WorldConfigurationError(message, fix=fix)


def render_configuration(configuration: WorldConfiguration) -> str:
    """The configuration as commented TOML that `load_configuration` reads back."""
    lines = [
        "# A world of Atoll on one machine. `./atoll world up` reads this file.",
        f"balancer = {_text(configuration.balancer)}          # embedded | haproxy",
        f"store = {_text(configuration.store)}               # sqlite | cassandra",
        f"grid = {_text(configuration.grid)}              # embedded | hazelcast",
        f"log = {_text(configuration.log)}                 # sqlite | kafka",
        f"tls = {str(configuration.tls).lower()}                     # between all processes, and for callers",
        f"federation = {str(configuration.federation).lower()}              # Flower's SuperLink and SuperNodes stand",
        f"host = {_text(configuration.host)}",
        f"log_level = {_text(configuration.log_level)}",
        f"channel = {_text(configuration.channel)}            # which releases the regions follow",
        f"follow = {str(configuration.follow).lower()}",
        f"poll_interval_s = {float(configuration.poll_interval_s)}",
        f"sample_ratio = {float(configuration.sample_ratio)}  # share of requests whose spans are kept",
        f"capture_bytes_max = {configuration.capture_bytes_max}",
        f"home_links = {str(configuration.home_links).lower()}",
        f"clock_faults = {str(configuration.clock_faults).lower()}",
        f"start_timeout_s = {float(configuration.start_timeout_s)}",
        "",
        "[ports]  # 0: a free one, recorded in <state>/world.json and used again",
        *(f"{name} = {getattr(configuration.ports, name)}" for name in ("first", "balancer", "repository")),
        "",
        "[directories]  # relative ones start at this file's folder",
        *(
            f"{name} = {_text(getattr(configuration.directories, name))}"
            for name in ("state", "repository", "environments", "servers")
        ),
        "",
        "# From one end of the map to the other: neighbours in the list are near.",
    ]
    for region in configuration.regions:
        lines += [
            "[[regions]]",
            f"name = {_text(region.name)}",
            f"edges = {region.edges}",
            f"zip_digits = {_text(region.zip_digits)}",
            f"networks = [{', '.join(_text(network) for network in region.networks)}]",
            f"federation = {_text(region.federation)}  # phones | silo",
            f"export_policy = {_text(region.export_policy)}  # {' | '.join(EXPORT_POLICIES)}",
            "[regions.settings]  # what else its processes are told: RegionChoices in region/settings.py",
            *(told(region.settings) or ("# precompute = {enabled = true, hours_utc = [2, 3, 4]}",)),
            "",
        ]
    return "\n".join(lines)


def save_configuration(configuration: WorldConfiguration, path: Path) -> None:
    """Write `render_configuration` to `path`."""
    write_atomically(path, render_configuration(configuration).encode())


def _text(value: str) -> str:
    # A JSON string is a valid TOML basic string.
    return msgspec.json.encode(value).decode()
