"""The store of a node, as its settings say."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from infra.plumbing.clock import Clock, SystemClock
from region.settings import RegionSettings
from region.store.port import Store
from region.store.sqlite import SqliteStore


def open_store(
    settings: RegionSettings, *, clock: Clock | None = None, registry: CollectorRegistry | None = None
) -> Store:
    """Open `store.sqlite` in the state directory, creating it or bringing its schema up to date.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """
    return SqliteStore(
        Path(settings.state_directory) / "store.sqlite",
        clock=clock if clock is not None else SystemClock(),
        history_max=settings.history_max,
        registry=registry,
    )
