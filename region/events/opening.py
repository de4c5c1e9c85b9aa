"""The log of a node, as its settings say."""

from pathlib import Path

from prometheus_client import CollectorRegistry

from infra.plumbing.addresses import parse_address, scheme_of
from infra.plumbing.clock import Clock, SystemClock
from region.events.dead_letters import DeadLetters
from region.events.port import Log
from region.events.sqlite import SqliteLog, require_no_sealed_records
from region.keeping.opening import open_file_keys, open_wrapping
from region.keeping.sealing import Seals
from region.keeping.subject_keys_sqlite import SqliteSubjectKeys
from region.settings import RegionSettings


def open_log(settings: RegionSettings, *, registry: CollectorRegistry | None = None, seals: Seals | None = None) -> Log:
    """Open `log.sqlite` in the state directory, creating it or bringing its schema up to date; or Kafka.

    Args:
        settings: of the node.
        registry: where failures are counted.
        seals: closed with the log; None: opened here.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """
    seals = seals if seals is not None else open_seals(settings, registry=registry)
    if scheme_of(settings.log):
        from region.events.kafka import OPTIONS, KafkaLog  # noqa: PLC0415 - who does not use it need not load it

        return KafkaLog(
            parse_address(settings.log, scheme="kafka", options=OPTIONS), queue_max=settings.intake_queue_max,
            retention_s=settings.log_retention_s, registry=registry, seals=seals, tls=settings.log_tls,
        )  # fmt: skip
    return SqliteLog(
        Path(settings.state_directory) / "log.sqlite", queue_max=settings.intake_queue_max, registry=registry,
        seals=seals, keys=open_file_keys(settings),
    )  # fmt: skip


def open_seals(
    settings: RegionSettings, *, clock: Clock | None = None, registry: CollectorRegistry | None = None
) -> Seals:  # fmt: skip
    """The seals of a node's log, with the subjects' keys where its store is.

    Raises:
        SettingsError: the keys cannot be used, or are not there while sealed records are; says what to do.
    """
    clock, wrapping = clock if clock is not None else SystemClock(), open_wrapping(settings)
    if scheme_of(settings.store):
        from region.keeping.subject_keys_cassandra import open_cassandra_keys  # noqa: PLC0415 - as above

        return Seals(open_cassandra_keys(settings, wrapping=wrapping, registry=registry), clock=clock)
    state = Path(settings.state_directory)
    keys = SqliteSubjectKeys(state, wrapping=wrapping, registry=registry)
    if keys.is_new and not scheme_of(settings.log):
        require_no_sealed_records(state / "log.sqlite", open_file_keys(settings))
    return Seals(keys, clock=clock)


def open_dead_letters(
    settings: RegionSettings, *, registry: CollectorRegistry | None = None, seals: Seals | None = None
) -> DeadLetters:
    """Open `dead-letters.sqlite` in the state directory.

    Args:
        settings: of the node.
        registry: where letters are counted.
        seals: for who adds letters or reads what they say.

    Raises:
        SettingsError: the file cannot be used; says what to do.
    """
    return DeadLetters(
        Path(settings.state_directory) / "dead-letters.sqlite", registry=registry, keys=open_file_keys(settings),
        seals=seals,
    )  # fmt: skip
