"""A published file: on disk with its past, in memory for those who go by it, the newest one of the region's nodes."""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from infra.contracts.residency import Regional, RegionalMessage, encode_regional
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError, InvalidInputError, SettingsError
from infra.plumbing.files import write_atomically
from infra.plumbing.grid.port import VALUE_BYTES_MAX
from infra.plumbing.tuf_client.errors import RefusalReason, ReleaseRefusedError
from region.publishing.proving import Proof, SignedFile

EDITIONS_KEPT = 20
_RECORD = "published.json"
F = TypeVar("F")


class Publication(RegionalMessage, frozen=True, kw_only=True):
    """One edition of a file, as it lies on disk and as nodes tell each other. An empty document asks for theirs."""

    document: Regional[str]
    edition: Regional[str] = ""
    operator: Regional[str] = ""
    published_at_ms: Regional[int] = 0
    statement: Regional[str] = ""
    """What the region's own keys say about the document (signed TUF metadata), where central delegates to them."""
    version: Regional[int] = 0
    """Of the statement; 0 without one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Edition(Generic[F]):
    """A file that holds: the text as it was reviewed, and what it says."""

    publication: Publication
    file: F

    @property
    def name(self) -> str:
        """The first 12 hex digits of the text's SHA-256."""
        return self.publication.edition


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind(Generic[F]):
    """What is published: its word in messages (a plural), its file, and how a text is read for a region.

    `read` raises InvalidInputError where the text is none of the kind, or is another region's.
    """

    word: str
    signed: SignedFile
    read: Callable[[str, str], F]


class PublishedBook(Generic[F]):
    """Which edition of a file holds in this region. `publish` and `adopt` block; safe between threads.

    Args:
        directory: where editions are kept; the last EDITIONS_KEPT of them.
        kind: what is published.
        region: files of another region are refused.
        proof: who may have signed it; None takes it from anybody who reaches `publish`.

    Raises:
        SettingsError: what was published before cannot be read, or is not signed as central wants it now: another file
            than the reviewed one must not hold.
    """

    def __init__(self, directory: Path, kind: Kind[F], *, region: str, proof: Proof | None = None) -> None:
        self._directory = directory
        self._kind = kind
        self._region = region
        self._proof = proof
        self._mutex = threading.Lock()
        self._current = self._load()

    @property
    def current(self) -> Edition[F] | None:
        """The edition that holds; None: nothing was published."""
        return self._current

    def publish(self, document: str, *, operator: str, edition: str, clock: Clock, statement: str = "") -> Edition[F]:
        """Make `document` the file that holds; on disk before it does so in memory.

        Raises:
            InvalidInputError: it is not of this kind, of another region, or too long to be told to other nodes.
            ReleaseRefusedError: `statement` is not what the region's keys must say about it, or not newer than what
                holds.
            OSError: the disk does not take it; nothing has changed.
        """
        with self._mutex:
            last_ms = self._current.publication.published_at_ms if self._current else 0
            publication = Publication(
                document=document, edition=edition, operator=operator,
                # Later than what holds, whatever the clocks of the region's nodes say.
                published_at_ms=max(clock.now_ms(), last_ms + 1), statement=statement,
            )  # fmt: skip
            return self._take(self._proven(publication))

    def adopt(self, heard: Publication) -> bool:
        """Take over what another node of the region published; whether it was news.

        Raises:
            InvalidInputError, ReleaseRefusedError, OSError: as `publish`.
        """
        with self._mutex:
            known_ms = self._current.publication.published_at_ms if self._current else 0
            if not heard.document or heard.published_at_ms <= known_ms:
                return False
            self._take(self._proven(heard))
            return True

    def _proven(self, publication: Publication) -> Publication:
        if self._proof is None:
            return publication
        version = self._proof.newly(publication.document, publication.statement)
        held = self._current.publication.version if self._current else 0
        if 0 < version <= held:
            word = self._kind.word
            raise ReleaseRefusedError(
                f"the signed {word} of {self._region}", reason=RefusalReason.ROLLED_BACK,
                detail=f"version {version}, and {held} holds", fix=f"Nothing was changed here. Sign the {word} anew.",
            )  # fmt: skip
        return msgspec.structs.replace(publication, version=version)

    def _take(self, publication: Publication) -> Edition[F]:
        edition = Edition(publication=publication, file=self._kind.read(publication.document, self._region))
        if len(encode_regional(publication)) > VALUE_BYTES_MAX:
            raise InvalidInputError(f"the {self._kind.word} are too long for the region's other nodes to be told.")
        self._directory.mkdir(parents=True, exist_ok=True)
        suffix = Path(self._kind.signed.name).suffix
        kept = self._directory / f"{publication.published_at_ms:015d}-{publication.edition}{suffix}"
        write_atomically(kept, publication.document.encode())
        write_atomically(self._directory / _RECORD, msgspec.json.encode(publication))
        for old in sorted(self._directory.glob(f"[0-9]*{suffix}"))[:-EDITIONS_KEPT]:
            old.unlink(missing_ok=True)
        self._current = edition
        return edition

    def _load(self) -> Edition[F] | None:
        path = self._directory / _RECORD
        try:
            publication = msgspec.json.decode(path.read_bytes(), type=Publication)
            if self._proof is not None:
                # The signed version, not the noted one: who can write to this disk must not bring an old file back.
                version = self._proof.again(publication.document, publication.statement)
                publication = msgspec.structs.replace(publication, version=version)
            return Edition(publication=publication, file=self._kind.read(publication.document, self._region))
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, AtollError) as error:
            raise SettingsError(
                f"the published {self._kind.word} {path} cannot be used: {error}",
                fix="Put it back as it was, or remove it, start, and publish the last good edition of the same folder.",
            ) from error


def edition_of(text: str) -> str:
    """The name of a published text: the first 12 hex digits of its SHA-256."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]
