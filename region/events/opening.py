"""The log of a node, as its settings say."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from infra.plumbing.addresses import parse_address, scheme_of
from region.events.dead_letters import DeadLetters
from region.events.port import Log
from region.events.sqlite import SqliteLog
from region.settings import RegionSettings


def open_log(settings: RegionSettings, *, registry: CollectorRegistry | None = None) -> Log:
    """Open `log.sqlite` in the state directory, creating it or bringing its schema up to date; or Kafka.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """
    if scheme_of(settings.log):
        from region.events.kafka import OPTIONS, KafkaLog  # noqa: PLC0415 - who does not use it need not load it

        return KafkaLog(
            parse_address(settings.log, scheme="kafka", options=OPTIONS), queue_max=settings.intake_queue_max,
            retention_s=settings.log_retention_s, registry=registry,
        )  # fmt: skip
    return SqliteLog(
        Path(settings.state_directory) / "log.sqlite", queue_max=settings.intake_queue_max, registry=registry
    )


def open_dead_letters(settings: RegionSettings, *, registry: CollectorRegistry | None = None) -> DeadLetters:
    """Open `dead-letters.sqlite` in the state directory.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """
    return DeadLetters(Path(settings.state_directory) / "dead-letters.sqlite", registry=registry)
