"""The log of a node, as its settings say."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from region.events.dead_letters import DeadLetters
from region.events.port import Log
from region.events.sqlite import SqliteLog
from region.settings import RegionSettings


def open_log(settings: RegionSettings, *, registry: CollectorRegistry | None = None) -> Log:
    """Open `log.sqlite` in the state directory, creating it or bringing its schema up to date.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """
    return SqliteLog(
        Path(settings.state_directory) / "log.sqlite", queue_max=settings.intake_queue_max, registry=registry
    )


def open_dead_letters(settings: RegionSettings, *, registry: CollectorRegistry | None = None) -> DeadLetters:
    """Open `dead-letters.sqlite` in the state directory.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """
    return DeadLetters(Path(settings.state_directory) / "dead-letters.sqlite", registry=registry)
