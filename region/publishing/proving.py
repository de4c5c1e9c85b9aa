"""Who may have signed what a region publishes: the keys that central's signed targets delegate its folder to.

Central decides whether it must be signed at all. While it leaves nothing to a region, whoever holds the operator's
key may publish there, and no signature counts; from the moment it delegates, only what the region's keys say holds:
published, heard from another node, or read from disk at a start.
"""

import datetime
import logging
from dataclasses import dataclass
from typing import Protocol

from infra.plumbing.clock import Clock
from infra.plumbing.tuf_client.delegation import Delegation
from infra.plumbing.tuf_client.errors import RefusalReason, ReleaseRefusedError, RepositoryUnavailableError

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SignedFile:
    """A file of the region's folder: its name there, and the command that signs and publishes it."""

    name: str
    command: str


class Proof(Protocol):
    """Decides whether a file may hold. Calls block."""

    def newly(self, document: str, statement: str) -> int:
        """The version of the statement about a file that somebody offers now; 0 where none is needed.

        Raises:
            ReleaseRefusedError: it does not hold.
        """

    def again(self, document: str, statement: str) -> int:
        """The same for a file that held before the process started; the statement may have expired since.

        Raises:
            ReleaseRefusedError: it does not hold (any more).
        """


class DelegationSource(Protocol):
    """Where delegations come from; `infra.plumbing.tuf_client.client.ReleaseClient` is one."""

    def refresh(self) -> None:
        """Look for what is new."""

    def delegation(self, region: str) -> Delegation | None:
        """What was last heard."""


class DelegatedProof:
    """Proof by central's delegation.

    Args:
        source: where the delegation comes from.
        signed: what has to be signed.
        region: whose.
        clock: against expired statements.
    """

    def __init__(self, source: DelegationSource, signed: SignedFile, *, region: str, clock: Clock) -> None:
        self._source = source
        self._signed = signed
        self._region = region
        self._clock = clock

    def newly(self, document: str, statement: str) -> int:
        """See `Proof`. Asks central first, so that a key which it has just withdrawn counts no more."""
        try:
            self._source.refresh()
        except (RepositoryUnavailableError, ReleaseRefusedError) as error:
            _log.warning("%s is judged by what central said last: %s", self._signed.name, error.message)
        now = datetime.datetime.fromtimestamp(self._clock.now_ms() / 1000, tz=datetime.UTC)
        return self._verify(self._source.delegation(self._region), document, statement, now=now)

    def again(self, document: str, statement: str) -> int:
        """See `Proof`. Asks central only when what it said last is not on this disk or does not verify."""
        return self._verify(self._last_said(required=bool(statement)), document, statement, now=None)

    def _last_said(self, *, required: bool) -> Delegation | None:
        try:
            known = self._source.delegation(self._region)
        except ReleaseRefusedError:
            known, required = None, True
        if known is not None or not required:
            return known
        self._source.refresh()
        return self._source.delegation(self._region)

    def _verify(
        self, delegation: Delegation | None, document: str, statement: str, *, now: datetime.datetime | None
    ) -> int:  # fmt: skip
        name = self._signed.name
        if delegation is None:
            if not statement:
                return 0
            raise ReleaseRefusedError(
                f"the signed {name} of {self._region}", reason=RefusalReason.UNSIGNED,
                detail="central delegates to no key of this region",
                fix=f"Have central do it: ./atoll release delegate {self._region} --public-key FILE.",
            )  # fmt: skip
        if not statement:
            raise ReleaseRefusedError(
                f"the {name} of {self._region}", reason=RefusalReason.UNSIGNED,
                detail="it carries no signature, and central wants one of this region's keys",
                fix=f"Sign it: {self._signed.command.replace('REGION', self._region)}.",
            )  # fmt: skip
        said = delegation.verify(statement.encode(), name=name, content=document.encode(), now=now)
        return said.version
