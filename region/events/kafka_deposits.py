"""What Kafka keeps of an erased subject: segments that only age takes away, by the settings that the broker says.

A segment goes as a whole when its newest record is older than `retention.ms` (Kafka documentation, "Topic configs");
it is closed `segment.ms` after its first record at the latest. So a record lies there for the sum of both at most, and
the minutes in which a broker looks and deletes.
"""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass

from aiokafka.admin.config_resource import ConfigResource, ConfigResourceType
from aiokafka.errors import KafkaError

from region.events.kafka_clients import KafkaClients
from region.keeping.deposits import Deposit, Fate, day_of

_ASK_S = 10.0
_LOOK_MS = 3_600_000
"""`log.retention.check.interval.ms` and `file.delete.delay.ms` are minutes; an hour covers both."""
ASKED = ("cleanup.policy", "retention.ms", "segment.ms", "remote.storage.enable")


@dataclass(frozen=True, slots=True)
class TopicFacts:
    """What the broker says of the topic; `settings` is empty where it did not say."""

    topic: str
    settings: Mapping[str, str]
    copies: int = 0
    trouble: str = ""


async def read_topic(clients: KafkaClients, topic: str) -> TopicFacts:
    """Ask the broker; an erasure does not wait for one that does not answer."""
    settings: dict[str, str] = {}
    try:
        async with asyncio.timeout(_ASK_S), clients.administering() as admin:
            (described,) = await admin.describe_topics([topic])
            copies = max((len(one["replicas"]) for one in described["partitions"]), default=0)
            wanted = ConfigResource(ConfigResourceType.TOPIC, topic, configs=dict.fromkeys(ASKED))
            for answer in await admin.describe_configs([wanted]):
                for resource in answer.resources:
                    settings |= {entry[0]: entry[1] for entry in resource[4] if entry[1] is not None}
    except (KafkaError, TimeoutError, OSError) as error:
        return TopicFacts(topic, settings, trouble=type(error).__name__)
    return TopicFacts(topic, settings, copies, "" if settings else "it named none of them")


def segment_deposits(facts: TopicFacts, *, erased_ms: int, sealed: bool, readable: int) -> tuple[Deposit, ...]:
    """Segments and their copies.

    Args:
        facts: of the topic.
        erased_ms: when the subject was erased: nothing of it was appended later.
        sealed: whether records lie under their subjects' keys.
        readable: records of the subject that still open: those of before there were keys, or all where there are none.
    """
    fate, proof = Fate.SHREDDED, "the subject's key was destroyed; its partition was read through, and none opens"
    if readable or not sealed:
        fate, proof = Fate.READABLE, f"{readable} records of before there were keys still open"
    said = ", ".join(f"{name}={facts.settings[name]}" for name in ASKED if name in facts.settings)
    told = f"the broker says {said}" if said else f"the broker did not say its settings: {facts.trouble}"
    until = _until(facts.settings, erased_ms)
    copies = f"{facts.copies} brokers" if facts.copies > 1 else "its broker"
    return (
        Deposit(
            where=f"segments of the topic {facts.topic} on {copies}", fate=fate, proof=f"{proof}; {told}", until=until
        ),
        Deposit(
            where="copies of segments: backups, mirrors, tiers", fate=fate, proof=proof,
            until="as long as whoever made them keeps them",
        ),
    )  # fmt: skip


def _until(settings: Mapping[str, str], erased_ms: int) -> str:
    if "compact" in settings.get("cleanup.policy", "delete"):
        return "not by themselves: the topic is compacted, set cleanup.policy=delete"
    try:
        retention_ms, segment_ms = int(settings["retention.ms"]), int(settings["segment.ms"])
    except (KeyError, ValueError):
        return "unknown"
    if retention_ms < 0:
        return "not by themselves: retention.ms is -1"
    return f"{day_of(erased_ms + retention_ms + segment_ms + _LOOK_MS)} at the latest"
