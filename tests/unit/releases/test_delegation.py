"""A region signs its own rules: by keys that central delegates to, in its own folder, never older, never another's."""

import datetime
from pathlib import Path

import pytest

from central.release.delegating import delegate, withdraw_delegation
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import InvalidInputError, NotFoundError, SettingsError
from infra.plumbing.tuf_client.client import ReleaseClient
from infra.plumbing.tuf_client.delegation import STATEMENT_BYTES_MAX, sign_statement
from infra.plumbing.tuf_client.errors import RefusalReason, ReleaseRefusedError
from infra.plumbing.tuf_client.signing import read_public
from region.publishing.book import Publication, edition_of
from region.publishing.proving import DelegatedProof
from region.rules.book import RULES_FILE, RuleBook
from tests.support.repositories import StaticServer
from tests.unit.releases.conftest import Central, NewClient
from tests.unit.releases.keyed import FAR, Keyed

RULES = "format: 1\nregion: us-east\n"
NEWER = RULES + "note: newer\n"


@pytest.fixture
def east(central: Central, tmp_path: Path) -> Keyed:
    return Keyed(central, tmp_path)


def book_of(client: ReleaseClient, directory: Path, region: str = "us-east") -> RuleBook:
    return RuleBook(
        directory, region=region, proof=DelegatedProof(client, RULES_FILE, region=region, clock=SystemClock())
    )


def publish(book: RuleBook, document: str, statement: str) -> int:
    edition = book.publish(
        document, operator="o", edition=edition_of(document), clock=ManualClock(), statement=statement
    )
    return edition.publication.version


def refused(book: RuleBook, document: str, statement: str) -> RefusalReason:
    held = book.current
    with pytest.raises(ReleaseRefusedError) as caught:
        publish(book, document, statement)
    assert (
        "Nothing was changed here" in str(caught.value) or "delegate" in caught.value.fix or "Sign" in caught.value.fix
    )
    assert book.current is held
    return caught.value.reason


def test_until_central_delegates_the_operators_key_is_enough_and_no_signature_counts(
    client: ReleaseClient, east: Keyed, tmp_path: Path
) -> None:
    book = book_of(client, tmp_path / "rules")
    assert publish(book, RULES, "") == 0
    assert refused(book, RULES, east.says(RULES, 1)) is RefusalReason.UNSIGNED
    east.delegate()
    assert refused(book, NEWER, "") is RefusalReason.UNSIGNED
    assert publish(book, NEWER, east.says(NEWER, 1)) == 1
    with pytest.raises(ReleaseRefusedError):
        book.adopt(Publication(document=RULES, edition="x", published_at_ms=10**15))
    withdraw_delegation(
        repository=east.central.repository, keys=east.central.keys, region="us-east", clock=SystemClock()
    )
    assert publish(book, RULES, "") == 0
    with pytest.raises(NotFoundError, match="nothing is delegated"):
        withdraw_delegation(
            repository=east.central.repository, keys=east.central.keys, region="us-east", clock=SystemClock()
        )


def test_signed_rules_hold_after_a_restart_also_while_central_is_away(
    new_client: NewClient, server: StaticServer, east: Keyed, tmp_path: Path
) -> None:
    east.delegate()
    client = new_client("node")
    book = book_of(client, tmp_path / "rules")
    assert publish(book, RULES, east.says(RULES, 1)) == 1
    client.close()
    server.missing |= {"timestamp.json", "root.json", "snapshot.json", "targets.json"}
    again = book_of(new_client("node"), tmp_path / "rules")
    assert again.current is not None
    assert again.current.publication.version == 1
    # Urgent rules are taken too: judged by what central said last.
    assert publish(again, NEWER, east.says(NEWER, 2)) == 2
    # A node that never heard central cannot judge them.
    with pytest.raises(SettingsError, match="cannot be used"):
        book_of(new_client("never-heard"), tmp_path / "rules")


def test_what_was_changed_on_the_disk_does_not_hold(client: ReleaseClient, east: Keyed, tmp_path: Path) -> None:
    east.delegate()
    publish(book_of(client, tmp_path / "rules"), RULES, east.says(RULES, 1))
    record = tmp_path / "rules" / "published.json"
    record.write_bytes(record.read_bytes().replace(b"format: 1", b"format: 1 "))
    with pytest.raises(SettingsError, match=r"cannot be used.*tampered"):
        book_of(client, tmp_path / "rules")


def test_what_the_regions_key_cannot_say(client: ReleaseClient, east: Keyed, tmp_path: Path) -> None:
    west = Keyed(east.central, tmp_path, "us-west")
    east.delegate()
    west.delegate()
    book = book_of(client, tmp_path / "rules")
    publish(book, RULES, east.says(RULES, 5))
    past = datetime.datetime(2020, 1, 1, tzinfo=datetime.UTC)
    for statement, reason in (
        (west.says(NEWER, 6, region="us-east"), RefusalReason.UNSIGNED),
        (west.says(NEWER, 6), RefusalReason.UNSIGNED),
        (east.says(NEWER, 6, region="us-west"), RefusalReason.OUTSIDE),
        (east.says(NEWER, 6, name="more/rules.yaml"), RefusalReason.OUTSIDE),
        (east.says(NEWER, 6, name="other.yaml"), RefusalReason.OUTSIDE),
        (east.says(RULES, 6), RefusalReason.TAMPERED),
        (east.says(NEWER, 5), RefusalReason.ROLLED_BACK),
        (east.says(NEWER, 4), RefusalReason.ROLLED_BACK),
        (east.says(NEWER, 6, expires=past), RefusalReason.EXPIRED),
        ("{}", RefusalReason.UNREADABLE),
        (" " * (STATEMENT_BYTES_MAX + 1), RefusalReason.TOO_LARGE),
        ((east.central.repository / "metadata" / "1.root.json").read_text(), RefusalReason.UNREADABLE),
    ):
        assert refused(book, NEWER, statement) is reason
    assert publish(book, NEWER, east.says(NEWER, 6)) == 6


def test_an_older_statement_in_a_newer_envelope_is_a_replay(client: ReleaseClient, east: Keyed, tmp_path: Path) -> None:
    east.delegate()
    book = book_of(client, tmp_path / "rules")
    first = east.says(RULES, 1)
    publish(book, RULES, first)
    publish(book, NEWER, east.says(NEWER, 2))
    replayed = Publication(document=RULES, edition="x", published_at_ms=10**15, statement=first, version=99)
    with pytest.raises(ReleaseRefusedError, match="rolled-back"):
        book.adopt(replayed)
    heard = Publication(document=RULES, edition="y", published_at_ms=10**15, statement=east.says(RULES, 3))
    assert book.adopt(heard)


def test_two_of_two_keys_and_a_new_key_for_the_region(client: ReleaseClient, east: Keyed, tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    second = Keyed(east.central, tmp_path / "b")
    assert east.delegate(second, threshold=2).threshold == 2
    book = book_of(client, tmp_path / "rules")
    assert refused(book, RULES, east.says(RULES, 1)) is RefusalReason.UNSIGNED
    both = sign_statement(
        "us-east", {RULES_FILE.name: RULES.encode()}, version=1, expires=FAR, signers=[east.signer, second.signer]
    )
    assert publish(book, RULES, both.decode()) == 1
    second.delegate()
    assert refused(book, NEWER, east.says(NEWER, 2)) is RefusalReason.UNSIGNED
    assert publish(book, NEWER, second.says(NEWER, 2)) == 2


def test_a_delegation_outlives_publishes(central: Central, client: ReleaseClient, east: Keyed) -> None:
    east.delegate()
    release = central.publish(seed=1).release
    client.refresh()
    assert client.channel("stable").release == release
    found = client.delegation("us-east")
    assert found is not None
    assert found.key_ids == (east.signer.public_key.keyid,)
    assert client.delegation("us-west") is None


def test_delegations_that_make_no_sense(central: Central, east: Keyed, tmp_path: Path) -> None:
    where = {"repository": central.repository, "keys": central.keys, "clock": central.clock}
    key = read_public(east.public)
    with pytest.raises(InvalidInputError, match="not a region"):
        delegate(**where, region="../x", public_keys=[key], threshold=1)  # type: ignore[arg-type]
    for keys, threshold in (([], 1), ([key], 2), ([key, key], 2), ([key], 0)):
        with pytest.raises(InvalidInputError, match="cannot sign"):
            delegate(**where, region="us-east", public_keys=keys, threshold=threshold)  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="not a public key"):
        read_public(east.path)
    with pytest.raises(InvalidInputError, match="not a public key"):
        read_public(tmp_path / "nowhere")
