"""The operator's rule commands as functions: `check` reads a file here, the others call a region. They block."""

from collections.abc import Sequence
from pathlib import Path

from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.http.tls import ClientTls
from region.api.rule_messages import PublishAnswer, RulesAnswer, RulesProposal
from region.funnel.dry_run import DryRunAnswer
from region.publishing.book import edition_of
from region.publishing.signing import signed_statement
from region.releases.commands import QUICK_S, call_region
from region.rules.book import RULES_FILE
from region.rules.reading import DOCUMENT_BYTES_MAX, read_rules
from region.rules.schema import RuleFile

DRY_RUN_S = 60.0


def check(path: Path) -> tuple[str, RuleFile]:
    """The edition and the rules of the file at `path`.

    Raises:
        InvalidInputError: it cannot be read, or says what it may not; with lines.
    """
    text = read_document(path)
    return edition_of(text), read_rules(text)


def read_document(path: Path) -> str:
    """The text of the file at `path`.

    Raises:
        InvalidInputError: it cannot be read, is not UTF-8 or too long.
    """
    try:
        with path.open("rb") as file:
            return file.read(DOCUMENT_BYTES_MAX + 1).decode("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the rules {path} cannot be read: {error}.") from error


def show(url: str, key: str, tls: ClientTls | None = None) -> RulesAnswer:
    """The rules that hold in the region at `url`."""
    return call_region("GET", url, "rules", key, tls, RulesAnswer, timeout_s=QUICK_S)


def diff(url: str, key: str, tls: ClientTls | None = None, *, document: str, requests: int) -> DryRunAnswer:
    """What `document` would change for the last `requests` of the region at `url`."""
    proposal = RulesProposal(document=document, requests=requests)
    return call_region("POST", url, "rules/diff", key, tls, DryRunAnswer, proposal, timeout_s=DRY_RUN_S)


def publish(
    url: str, key: str, tls: ClientTls | None = None, *, document: str, region: str, signing_keys: Sequence[Path],
    clock: Clock,
) -> PublishAnswer:  # fmt: skip
    """Make `document` the rules of the region at `url`, signed by the keys in `signing_keys` if there are any.

    Raises:
        KeysError: a signing key cannot be used.
    """
    statement = ""
    if signing_keys:
        version = show(url, key, tls).version + 1
        statement = signed_statement(RULES_FILE, document, region, signing_keys, version=version, clock=clock)
    proposal = RulesProposal(document=document, statement=statement)
    return call_region("POST", url, "rules/publish", key, tls, PublishAnswer, proposal, timeout_s=DRY_RUN_S)
