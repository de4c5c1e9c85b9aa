"""Release ids follow from content, events have strengths, reasons have sentences."""

import msgspec
import pytest

from infra.contracts.events import STRENGTH_LEVELS, EventType, enters_history, event_strength
from infra.contracts.messages import ReasonCode, Source
from infra.contracts.reasons import reason
from infra.contracts.release import (
    EVALUATION,
    INDEX_REPORT,
    ITEM_VECTORS,
    MODEL_CARD,
    RANKER,
    RELEASE_ID_PATTERN,
    SCANN_PREFIX,
    FileEntry,
    Manifest,
    ModelShape,
    blob_target,
    channel_target,
    manifest_target,
    slate_from_list,
)

SHAPE = ModelShape(
    dim=8, history_length=4, num_items=2, num_categories=1, ranker_batch=4, num_ranking_inputs=16,
    heads=("click",), categories=("Drama",),
)  # fmt: skip


def manifest(**changes: object) -> Manifest:
    fields: dict[str, object] = {
        "format_version": 1, "created_at_ms": 1, "dataset": "d", "dataset_sha256": "0" * 64, "parent": None,
        "origin": "central", "shape": SHAPE, "metrics": {"hr10": 0.1}, "gates": {}, "files": {},
    }  # fmt: skip
    return Manifest(**{**fields, **changes})  # type: ignore[arg-type]


def test_release_id_is_a_function_of_content():
    assert RELEASE_ID_PATTERN.fullmatch(manifest().release_id)
    assert manifest().release_id == manifest().release_id
    assert manifest(created_at_ms=2).release_id != manifest().release_id


def test_the_content_is_all_but_what_no_seed_can_give_again():
    def content(**changed: str) -> str:
        names = (ITEM_VECTORS, f"{SCANN_PREFIX}ah_codebook.pb", INDEX_REPORT, EVALUATION, MODEL_CARD, RANKER)
        files = {name: FileEntry(sha256=changed.get(name, "0" * 64), length=1) for name in names}
        return manifest(created_at_ms=len(changed), files=files).content_sha256

    other = "1" * 64
    for name in (f"{SCANN_PREFIX}ah_codebook.pb", INDEX_REPORT, EVALUATION, MODEL_CARD):
        assert content(**{name: other}) == content()
    for name in (ITEM_VECTORS, RANKER):
        assert content(**{name: other}) != content()


def test_release_id_survives_the_wire_and_does_not_depend_on_key_order():
    one = manifest(files={"a": FileEntry(sha256="0" * 64, length=1), "b": FileEntry(sha256="1" * 64, length=2)})
    two = msgspec.json.decode(one.canonical_bytes(), type=Manifest)
    assert two.release_id == one.release_id
    assert manifest(metrics={"a": 1.0, "b": 2.0}).release_id == manifest(metrics={"b": 2.0, "a": 1.0}).release_id


def test_a_hash_that_is_none_is_refused():
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(b'{"sha256":"../../etc/passwd","length":1}', type=FileEntry)


def test_targets_are_content_addressed():
    assert manifest_target("ab") == "manifests/ab.json"
    assert blob_target("cd") == "blobs/cd"
    assert channel_target("stable") == "channels/stable.json"


def test_every_reason_has_a_sentence():
    for code in ReasonCode:
        assert reason(code, "Heat").text
    assert reason(ReasonCode.SIMILAR_ITEM, "Heat").text == "Similar to Heat"


def test_a_ready_list_becomes_a_slate_in_its_order():
    slate = slate_from_list(("7", "3"), code=ReasonCode.POPULAR, titles={"7": "Seven"})
    assert [(item.item, item.title, item.source) for item in slate] == [
        ("7", "Seven", Source.RELEASE_LISTS), ("3", "", Source.RELEASE_LISTS),
    ]  # fmt: skip
    assert slate[0].score > slate[1].score


@pytest.mark.parametrize("kind", list(EventType))
def test_every_event_type_has_a_strength(kind: EventType):
    for value in (None, 0.0, 0.5, 1.0, 3.4, 5.0):
        assert 1 <= event_strength(kind, value) < STRENGTH_LEVELS
    assert isinstance(enters_history(kind), bool)


def test_ratings_and_watch_time_become_strengths():
    assert [event_strength(EventType.RATING, value) for value in (None, 1.0, 4.6, 9.0)] == [7, 1, 5, 5]
    assert [event_strength(EventType.WATCH, value) for value in (0.1, 0.5, 0.9)] == [2, 3, 5]
