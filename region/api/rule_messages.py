"""What an operator says and hears about a region's rules."""

from infra.contracts.residency import Global, GlobalMessage, Regional, RegionalMessage
from region.rules.examining import RuleFinding

REQUESTS_DEFAULT = 200


class RulesProposal(RegionalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A rule file, word for word; `requests`: how many of the last requests a dry run takes.

    `statement`: signed by the region's keys where central delegates to them (`infra.plumbing.tuf_client.delegation`).
    """

    document: Regional[str]
    statement: Regional[str] = ""
    requests: Global[int] = REQUESTS_DEFAULT


class RulesAnswer(RegionalMessage, frozen=True, kw_only=True):
    """The rules that hold. An empty document: the release's defaults, or those of the settings."""

    edition: Global[str]
    document: Regional[str]
    operator: Regional[str]
    published_at_ms: Global[int]
    version: Global[int] = 0
    """Of what the region's keys said about them; 0: not signed."""


class PublishAnswer(GlobalMessage, frozen=True, kw_only=True):
    """What holds now, what held before, and whether the region's edges and other nodes could be told at once."""

    edition: Global[str]
    before: Global[str]
    findings: Global[tuple[RuleFinding, ...]]
    told: Global[bool]
    version: Global[int] = 0
    """Of what the region's keys said about them; 0: not signed."""
