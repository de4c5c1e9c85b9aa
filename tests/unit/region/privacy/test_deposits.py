"""Receipts name every deposit, by what engines say of themselves, and what was signed before still holds."""

import msgspec
import pytest

from infra.cli.privacy import _text
from infra.plumbing.keys import RegionKeys, TrustDirectory
from region.events.kafka_deposits import TopicFacts, segment_deposits
from region.keeping.deposits import Deposit, Fate, in_file
from region.privacy.messages import ErasureReceipt, PlaceReceipt
from region.privacy.receipts import read_receipt, sign_receipt
from region.store.cassandra_deposits import ClusterFacts, key_deposits, row_deposits

ERASED_MS = 1_780_000_000_000
DAY_MS = 86_400_000
KEYS_OF_A_REGION = RegionKeys(
    region="us-east", issuer_private=b"i" * 32, subject_key=b"s" * 32, pseudonym_key=b"p" * 32,
    relay_private=b"r" * 32, service_key="s", operator_key="o",
)  # fmt: skip
OF_BEFORE = (
    b'{"receipt":{"format":"atoll-erasure-receipt/1","region":"us-east","node":"r1","mark":"mmmm'
    b'mmmmmmmmmmmmmmmmmmmmmmmmmmmm","erased_ms":1,"finished_ms":2,"places":[{"place":"store","wh'
    b'at":"rows","before":1,"removed":1,"after":0,"remains":""}],"edges_told":true,"complete":tr'
    b'ue,"accesses":null,"not_reached":["x"]},"signature":"reVZRXu9cvhP+xg9T1aeu5A8t6n18tODNRxZn'
    b'VJ8Ey5aKQRbw2Qg6uk4eGzhN55u71Z51NI0nJCzs3L6MRihDA=="}'
)
"""As it was signed before receipts had deposits."""


def test_a_receipt_of_before_holds_as_it_was_signed() -> None:
    trust = TrustDirectory.of([KEYS_OF_A_REGION])
    receipt = read_receipt(OF_BEFORE, trust)
    assert receipt.places[0].deposits is msgspec.UNSET
    assert "store" in _text(receipt)


def test_deposits_are_signed_like_the_rest() -> None:
    trust = TrustDirectory.of([KEYS_OF_A_REGION])
    place = PlaceReceipt(place="store", what="rows", before=1, removed=1, after=0, deposits=in_file("the file"))
    receipt = ErasureReceipt(
        region="us-east", node="r1", mark="m" * 32, erased_ms=1, finished_ms=2, places=(place,), edges_told=True,
        complete=True, not_reached=(),
    )  # fmt: skip
    content = msgspec.json.encode(sign_receipt(receipt, KEYS_OF_A_REGION))
    assert read_receipt(content, trust) == receipt
    assert "the file" in _text(receipt)
    assert "gone" in _text(receipt)
    with pytest.raises(Exception, match="signature does not fit"):
        read_receipt(content.replace(b'"gone"', b'"named"'), trust)


def by_place(deposits: tuple[Deposit, ...]) -> dict[str, Deposit]:
    return {one.where.split(" ")[0]: one for one in deposits}


def test_kafkas_segments_are_named_with_the_day_on_which_they_go() -> None:
    settings = {"cleanup.policy": "delete", "retention.ms": str(30 * DAY_MS), "segment.ms": str(7 * DAY_MS)}
    facts = TopicFacts("events-us-east", settings, copies=3)
    found = by_place(segment_deposits(facts, erased_ms=ERASED_MS, sealed=True, readable=0))
    segments = found["segments"]
    assert (segments.fate, segments.until) == (Fate.SHREDDED, "2026-07-04 at the latest")
    assert "retention.ms=2592000000" in segments.proof
    assert "3 brokers" in segments.where
    assert found["copies"].fate is Fate.SHREDDED
    plain = segment_deposits(facts, erased_ms=ERASED_MS, sealed=True, readable=2)[0]
    assert (plain.fate, "2 records" in plain.proof) == (Fate.READABLE, True)
    assert segment_deposits(facts, erased_ms=ERASED_MS, sealed=False, readable=0)[0].fate is Fate.READABLE


@pytest.mark.parametrize(
    ("changed", "until"),
    [
        ({"cleanup.policy": "compact,delete"}, "the topic is compacted"),
        ({"retention.ms": "-1"}, "not by themselves"),
        ({"segment.ms": "soon"}, "unknown"),
    ],
)
def test_settings_under_which_nothing_goes_are_said(changed: dict[str, str], until: str) -> None:
    settings = {"cleanup.policy": "delete", "retention.ms": "1", "segment.ms": "1"} | changed
    facts = TopicFacts("t", settings, copies=1)
    assert until in segment_deposits(facts, erased_ms=ERASED_MS, sealed=True, readable=0)[0].until


def test_a_broker_that_does_not_say_is_named() -> None:
    found = segment_deposits(TopicFacts("t", {}, trouble="TimeoutError"), erased_ms=1, sealed=True, readable=0)[0]
    assert (found.until, "TimeoutError" in found.proof) == ("unknown", True)


FACTS = ClusterFacts(
    grace_s={"rows": 864_000, "subject_keys": 3600, "keys_by_handle": 3600},
    settings={"a": {"max_hint_window": "3h", "hinted_handoff_enabled": "true", "commitlog_total_space": "8GiB"}},
    snapshots=[], hints=0, silent={},
)  # fmt: skip


def test_cassandras_deposits_of_a_row_are_shredded_and_dated() -> None:
    found = {one.where: one for one in row_deposits(FACTS, erased_ms=ERASED_MS, sealed=True)}
    assert {one.fate for one in found.values()} == {Fate.SHREDDED, Fate.NAMED, Fate.GONE}
    files = found["data files of rows: what they say"]
    assert "2026-06-07" in files.until
    assert "nodetool garbagecollect KEYSPACE rows" in files.until
    assert "commitlog_total_space=8GiB" in found["commit log"].proof
    assert found["snapshots"].fate is found["hints for nodes that were away"].fate is Fate.GONE
    in_the_clear = row_deposits(FACTS, erased_ms=ERASED_MS, sealed=False)
    assert in_the_clear[0].fate is Fate.READABLE


def test_what_could_bring_a_key_back_is_named() -> None:
    facts = ClusterFacts(
        grace_s=FACTS.grace_s, settings={"a": {"incremental_backups": "true", "cdc_enabled": "false"}},
        snapshots=[("a", "nightly", "keys_by_handle"), ("a", "rows-only", "rows")], hints=2,
        silent={"b": "OperationTimedOut"},
    )  # fmt: skip
    found = {one.where: one for one in key_deposits(facts, erased_ms=ERASED_MS)}
    assert found["snapshots nightly"].fate is Fate.WRAPPED
    assert "clearsnapshot" in found["snapshots nightly"].until
    assert found["hints for nodes that were away"].fate is Fate.WRAPPED
    assert "incremental_backups" in found
    assert "cdc_enabled" not in found
    assert found["nodes that did not say"].fate is Fate.UNKNOWN
    assert "rotate-rest" in found["data files of subjects' keys"].until
    silent = ClusterFacts({}, {}, (), 0, {})
    assert any(one.fate is Fate.UNKNOWN for one in key_deposits(silent, erased_ms=ERASED_MS))
