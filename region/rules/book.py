"""The region's published rules: on disk with their past, in memory for the funnel, and told to the region's nodes."""

import threading
from pathlib import Path

import msgspec

from infra.contracts.residency import Regional, RegionalMessage
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError, InvalidInputError, SettingsError
from infra.plumbing.files import write_atomically
from infra.plumbing.tuf_client.errors import RefusalReason, ReleaseRefusedError
from region.rules.proving import RuleProof
from region.rules.reading import read_rules
from region.rules.schema import RuleFile

RULES_TOPIC = "rules"
EDITIONS_KEPT = 20
_RECORD = "published.json"


class Publication(RegionalMessage, frozen=True, kw_only=True):
    """One edition of the rules, as it lies on disk and as nodes tell each other. An empty document asks for theirs."""

    document: Regional[str]
    edition: Regional[str] = ""
    operator: Regional[str] = ""
    published_at_ms: Regional[int] = 0
    statement: Regional[str] = ""
    """What the region's own keys say about the document (signed TUF metadata), where central delegates to them."""
    version: Regional[int] = 0
    """Of the statement; 0 without one."""


class Edition(msgspec.Struct, frozen=True, kw_only=True):
    """Rules that hold: the text as it was reviewed, and what it says."""

    publication: Publication
    file: RuleFile

    @property
    def name(self) -> str:
        """The first 12 hex digits of the text's SHA-256."""
        return self.publication.edition


class RuleBook:
    """Which rules hold in this region. `publish` and `adopt` block; safe between threads.

    Args:
        directory: where editions are kept; the last EDITIONS_KEPT of them.
        region: rules of another region are refused.
        first: rules to start with where nothing has been published yet.
        proof: who may have signed rules; None takes them from anybody who reaches `publish`.

    Raises:
        SettingsError: what was published before cannot be read, or is not signed as central wants it now: other rules
            than the reviewed ones must not hold.
    """

    def __init__(
        self, directory: Path, *, region: str, first: RuleFile | None = None, proof: RuleProof | None = None
    ) -> None:  # fmt: skip
        self._directory = directory
        self._region = region
        self._proof = proof
        self._mutex = threading.Lock()
        self._current = self._load()
        if self._current is None and first is not None:
            from_settings = Publication(document="", edition="settings-file")
            self._current = Edition(publication=from_settings, file=_of_region(first, region))

    @property
    def current(self) -> Edition | None:
        """The edition that holds; None: the release's defaults do."""
        return self._current

    def publish(self, document: str, *, operator: str, edition: str, clock: Clock, statement: str = "") -> Edition:
        """Make `document` the rules; on disk before it holds in memory.

        Raises:
            RuleFileError: it is not a rule file.
            InvalidInputError: it is of another region.
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
            RuleFileError, InvalidInputError, ReleaseRefusedError, OSError: as `publish`.
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
            raise ReleaseRefusedError(
                f"the signed rules of {self._region}", reason=RefusalReason.ROLLED_BACK,
                detail=f"version {version}, and {held} holds", fix="Nothing was changed here. Sign the rules anew.",
            )  # fmt: skip
        return msgspec.structs.replace(publication, version=version)

    def _take(self, publication: Publication) -> Edition:
        edition = Edition(publication=publication, file=_of_region(read_rules(publication.document), self._region))
        self._directory.mkdir(parents=True, exist_ok=True)
        kept = self._directory / f"{publication.published_at_ms:015d}-{publication.edition}.yaml"
        write_atomically(kept, publication.document.encode())
        write_atomically(self._directory / _RECORD, msgspec.json.encode(publication))
        for old in sorted(self._directory.glob("*.yaml"))[:-EDITIONS_KEPT]:
            old.unlink(missing_ok=True)
        self._current = edition
        return edition

    def _load(self) -> Edition | None:
        path = self._directory / _RECORD
        try:
            publication = msgspec.json.decode(path.read_bytes(), type=Publication)
            if self._proof is not None:
                self._proof.again(publication.document, publication.statement)
            return Edition(publication=publication, file=_of_region(read_rules(publication.document), self._region))
        except FileNotFoundError:
            return None
        except (OSError, msgspec.DecodeError, UnicodeDecodeError, AtollError) as error:
            raise SettingsError(
                f"the published rules {path} cannot be used: {error}",
                fix="Put it back as it was, or remove it, start, and publish the last good edition of the same folder.",
            ) from error


def load_rules(path: str) -> RuleFile | None:
    """The rules in the YAML file at `path`; None for an empty path.

    Raises:
        SettingsError: the file is missing, or is not a rule file; says in which line.
    """
    if not path:
        return None
    try:
        return read_rules(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the rules {path}: {error}.") from error
    except InvalidInputError as error:
        raise SettingsError(f"{path}: {error.message}", fix="Check it: ./atoll rules check FILE.") from error


def _of_region(file: RuleFile, region: str) -> RuleFile:
    if file.region not in (region, "any"):
        raise InvalidInputError(f"these are the rules of {file.region}, not of {region}.", fix="Name the right region.")
    return file
