"""A region signs its own items: by keys that central delegates to, in its own folder, never older, never another's."""

import datetime
from pathlib import Path

import msgspec
import pytest

from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import InvalidInputError, SettingsError
from infra.plumbing.tuf_client.client import ReleaseClient
from infra.plumbing.tuf_client.errors import RefusalReason, ReleaseRefusedError
from region.additions.published import ITEMS_FILE, ItemBook, ItemFile, PublishedItem, write_item_file
from region.publishing.book import Publication, edition_of
from region.publishing.proving import DelegatedProof
from tests.support.repositories import StaticServer
from tests.unit.releases.conftest import Central, NewClient
from tests.unit.releases.keyed import FAR, Keyed


def file_of(*names: str, region: str = "us-east", withdrawn: tuple[str, ...] = ()) -> str:
    items = tuple(PublishedItem(item=name, categories=("drama",)) for name in names)
    return write_item_file(ItemFile(format=1, region=region, items=items, withdrawn=withdrawn))


FIRST, NEWER = file_of("new-1", withdrawn=("item-3",)), file_of("new-1", "new-2")


def says(keyed: Keyed, document: str, version: int, *, region: str = "", name: str = ITEMS_FILE.name) -> str:
    return keyed.says(document, version, region=region, name=name)


@pytest.fixture
def east(central: Central, tmp_path: Path) -> Keyed:
    return Keyed(central, tmp_path)


def book_of(client: ReleaseClient, directory: Path, region: str = "us-east") -> ItemBook:
    proof = DelegatedProof(client, ITEMS_FILE, region=region, clock=SystemClock())
    return ItemBook(directory, region=region, proof=proof)


def publish(book: ItemBook, document: str, statement: str) -> int:
    edition = book.publish(
        document, operator="o", edition=edition_of(document), clock=ManualClock(), statement=statement
    )  # fmt: skip
    return edition.publication.version


def test_what_the_regions_key_cannot_say_is_refused_and_what_held_holds(
    client: ReleaseClient, east: Keyed, tmp_path: Path
) -> None:
    west = Keyed(east.central, tmp_path, "us-west")
    east.delegate()
    west.delegate()
    book = book_of(client, tmp_path / "items")
    publish(book, FIRST, says(east, FIRST, 5))
    on_disk = (tmp_path / "items" / "published.json").read_bytes()
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    tampered = NEWER.replace("new-2", "evil-2")
    for document, statement, reason, told in (
        (NEWER, "", RefusalReason.UNSIGNED, "central wants one of this region's keys"),
        (NEWER, says(west, NEWER, 6), RefusalReason.UNSIGNED, "0 of 1 keys signed it"),
        (NEWER, says(west, NEWER, 6, region="us-east"), RefusalReason.UNSIGNED, "0 of 1 keys signed it"),
        (NEWER, says(east, NEWER, 6, region="us-west"), RefusalReason.OUTSIDE, "regions/us-west/items.json"),
        # What the region's key said of its rules says nothing of its items.
        (NEWER, says(east, NEWER, 6, name="rules.yaml"), RefusalReason.OUTSIDE, "does not speak about"),
        (tampered, says(east, NEWER, 6), RefusalReason.TAMPERED, "hash that was signed"),
        (NEWER, says(east, FIRST, 6), RefusalReason.TAMPERED, "hash that was signed"),
        (FIRST, says(east, FIRST, 5), RefusalReason.ROLLED_BACK, "version 5, and 5 holds"),
        (NEWER, says(east, NEWER, 4), RefusalReason.ROLLED_BACK, "version 4, and 5 holds"),
        (NEWER, east.says(NEWER, 6, name=ITEMS_FILE.name, expires=past), RefusalReason.EXPIRED, "2020-01-01"),
        (NEWER, says(east, NEWER, 6)[:-40], RefusalReason.UNREADABLE, "cannot be decoded"),
    ):
        held = book.current
        with pytest.raises(ReleaseRefusedError, match=told) as caught:
            publish(book, document, statement)
        assert caught.value.reason is reason
        assert caught.value.fix
        assert book.current is held
        assert (tmp_path / "items" / "published.json").read_bytes() == on_disk
        envelope = Publication(document=document, edition="x", published_at_ms=10**15, statement=statement, version=99)
        with pytest.raises(ReleaseRefusedError):
            book.adopt(envelope)
        assert book.current is held
    assert publish(book, NEWER, says(east, NEWER, 6)) == 6


def test_a_key_that_central_withdrew_says_nothing_more(client: ReleaseClient, east: Keyed, tmp_path: Path) -> None:
    east.delegate()
    book = book_of(client, tmp_path / "items")
    publish(book, FIRST, says(east, FIRST, 1))
    (tmp_path / "b").mkdir()
    Keyed(east.central, tmp_path / "b").delegate()
    with pytest.raises(ReleaseRefusedError, match="0 of 1 keys"):
        publish(book, NEWER, says(east, NEWER, 2))


def test_another_regions_node_takes_no_file_of_this_region(new_client: NewClient, east: Keyed, tmp_path: Path) -> None:
    west = Keyed(east.central, tmp_path, "us-west")
    east.delegate()
    west.delegate()
    book = book_of(new_client("west"), tmp_path / "items", "us-west")
    heard = Publication(document=FIRST, edition="x", published_at_ms=10**15, statement=says(east, FIRST, 1))
    with pytest.raises(ReleaseRefusedError, match="unsigned"):
        book.adopt(heard)
    # Nor one that its own key signed by mistake.
    with pytest.raises(InvalidInputError, match="items of 'us-east', not of us-west"):
        publish(book, FIRST, says(west, FIRST, 1))
    assert book.current is None
    assert not (tmp_path / "items").exists()


def test_signed_items_hold_after_a_restart_while_central_is_away_and_not_once_they_were_changed(
    new_client: NewClient, server: StaticServer, east: Keyed, tmp_path: Path
) -> None:
    east.delegate()
    client = new_client("node")
    publish(book_of(client, tmp_path / "items"), FIRST, says(east, FIRST, 1))
    client.close()
    server.missing |= {"timestamp.json", "root.json", "snapshot.json", "targets.json"}
    client = new_client("node")
    again = book_of(client, tmp_path / "items")
    assert again.current is not None
    assert again.current.file.withdrawn == ("item-3",)
    assert publish(again, NEWER, says(east, NEWER, 2)) == 2
    record = tmp_path / "items" / "published.json"
    kept = record.read_bytes()
    record.write_bytes(kept.replace(b"new-2", b"evil2"))
    with pytest.raises(SettingsError, match=r"published items .* cannot be used.*tampered"):
        book_of(client, tmp_path / "items")
    record.write_bytes(msgspec.json.encode({**msgspec.json.decode(kept), "version": 0}))
    with pytest.raises(ReleaseRefusedError, match="version 1, and 2 holds"):
        publish(book_of(client, tmp_path / "items"), FIRST, says(east, FIRST, 1))
    record.write_bytes(msgspec.json.encode({**msgspec.json.decode(kept), "statement": ""}))
    with pytest.raises(SettingsError, match="unsigned"):
        book_of(client, tmp_path / "items")


def test_rules_and_items_have_versions_of_their_own(client: ReleaseClient, east: Keyed, tmp_path: Path) -> None:
    assert east.delegate().key_ids
    book = book_of(client, tmp_path / "items")
    assert publish(book, FIRST, says(east, FIRST, 7)) == 7
    both = east.says("format: 1\nregion: us-east\n", 99, expires=FAR)
    with pytest.raises(ReleaseRefusedError, match="outside"):
        publish(book, NEWER, both)
    assert publish(book, NEWER, says(east, NEWER, 8)) == 8
