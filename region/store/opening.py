"""The store of a node, as its settings say."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from infra.contracts.events import DEFAULT_WEIGHTS, EventWeights, parse_weights
from infra.plumbing.addresses import parse_address, scheme_of
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import SettingsError
from region.keeping.opening import open_file_keys, open_wrapping
from region.keeping.sealing import Seals
from region.settings import RegionSettings
from region.store.applying import ApplyRules
from region.store.port import Store
from region.store.sqlite import SqliteStore

READ_TIMEOUT_S = 0.1
"""A request does not wait longer for its row; programs that nobody waits for may."""


def open_store(
    settings: RegionSettings, *, clock: Clock | None = None, registry: CollectorRegistry | None = None,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> Store:  # fmt: skip
    """Open `store.sqlite` in the state directory, creating it or bringing its schema up to date; or Cassandra.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """
    if scheme_of(settings.store):
        # Who does not use it need not load it.
        from region.keeping.subject_keys_cassandra import open_cassandra_keys  # noqa: PLC0415
        from region.store.cassandra import CassandraStore  # noqa: PLC0415
        from region.store.cassandra_link import CassandraLink  # noqa: PLC0415

        ticking, wrapping = clock if clock is not None else SystemClock(), open_wrapping(settings)
        return CassandraStore(
            parse_address(settings.store, scheme="cassandra", options=CassandraLink.OPTIONS),
            seals=lambda link: Seals(open_cassandra_keys(settings, wrapping=wrapping, link=link), clock=ticking),
            clock=ticking,
            tls=settings.store_tls,
            rules=apply_rules(settings),
            registry=registry,
            read_timeout_s=read_timeout_s,
        )
    return SqliteStore(
        Path(settings.state_directory) / "store.sqlite",
        clock=clock if clock is not None else SystemClock(),
        rules=apply_rules(settings),
        registry=registry,
        read_timeout_s=read_timeout_s,
        keys=open_file_keys(settings),
    )


def apply_rules(settings: RegionSettings) -> ApplyRules:
    """How this region applies events.

    Raises:
        SettingsError: the file of event weights cannot be used; says why.
    """
    return ApplyRules(
        history_max=settings.history_max,
        session_life_ms=round(settings.session_life_s * 1000),
        behaviour_life_ms=round(settings.behaviour_life_s * 1000),
        weights=load_weights(settings.event_weights_file),
    )


def load_weights(path: str) -> EventWeights:
    """The region's own event weights; the shipped ones when `path` is empty.

    Raises:
        SettingsError: the file cannot be read, or is not what `infra/contracts/event_weights.toml` describes.
    """
    if not path:
        return DEFAULT_WEIGHTS
    try:
        return parse_weights(Path(path).read_bytes())
    except (OSError, ValueError) as error:  # msgspec's errors are ValueErrors
        raise SettingsError(
            f"the event weights {path} cannot be used: {error}.",
            fix="Start from a copy of infra/contracts/event_weights.toml, which explains every number.",
        ) from error
