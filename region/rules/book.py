"""The region's published rules, for the funnel."""

from pathlib import Path

from infra.plumbing.errors import InvalidInputError, SettingsError
from region.publishing.book import Edition, Kind, Publication, PublishedBook
from region.publishing.proving import Proof, SignedFile
from region.rules.reading import read_rules
from region.rules.schema import RuleFile

RULES_TOPIC = "rules"
RULES_FILE = SignedFile("rules.yaml", "./atoll rules publish FILE --region REGION --signing-key FILE")


class RuleBook(PublishedBook[RuleFile]):
    """Which rules hold in this region; `current` None: the release's defaults do.

    Args:
        directory, region, proof: see `PublishedBook`.
        first: rules to start with where nothing has been published yet.

    Raises:
        SettingsError: see `PublishedBook`.
    """

    def __init__(
        self, directory: Path, *, region: str, first: RuleFile | None = None, proof: Proof | None = None
    ) -> None:  # fmt: skip
        super().__init__(directory, RULES, region=region, proof=proof)
        if self._current is None and first is not None:
            from_settings = Publication(document="", edition="settings-file")
            self._current = Edition(publication=from_settings, file=_of_region(first, region))


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


def _read(document: str, region: str) -> RuleFile:
    return _of_region(read_rules(document), region)


def _of_region(file: RuleFile, region: str) -> RuleFile:
    if file.region not in (region, "any"):
        raise InvalidInputError(f"these are the rules of {file.region}, not of {region}.", fix="Name the right region.")
    return file


RULES = Kind(word="rules", signed=RULES_FILE, read=_read)
