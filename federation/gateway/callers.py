"""Who calls: the subject behind a phone's token, verified once for its check-ins of the next seconds."""

import hashlib
from collections import OrderedDict

from infra.plumbing.clock import Clock
from infra.plumbing.errors import ForbiddenError
from infra.plumbing.keys import RegionKeys, Trust
from infra.plumbing.tokens import open_subject, verify_token

KEPT_S = 60.0
"""A phone checks in twice for a round, and again while it waits for one. A token that ends, or whose key is retired, is
taken so much longer."""
KEPT_MAX = 50_000


class Callers:
    """Subjects by token; a token itself is not kept."""

    def __init__(self, *, keys: RegionKeys, trust: Trust, clock: Clock) -> None:
        self._keys = keys
        self._trust = trust
        self._clock = clock
        self._known: OrderedDict[bytes, tuple[str, float]] = OrderedDict()

    def subject(self, token: str) -> str:
        """The region's pseudonym of the token's owner.

        Raises:
            UnauthorizedError: the token does not hold.
            ForbiddenError: its owner's home is another region.
        """
        now_s, mark = self._clock.monotonic_s(), hashlib.sha256(token.encode()).digest()
        found = self._known.get(mark)
        if found is not None and now_s < found[1]:
            return found[0]
        principal = verify_token(token, self._trust, clock=self._clock)
        if principal.home != self._keys.region:
            raise ForbiddenError("this phone's home is another region.", fix="Check in at its own gateway.")
        subject = open_subject(principal, self._keys)
        self._known[mark] = (subject, now_s + KEPT_S)
        self._known.move_to_end(mark)
        if len(self._known) > KEPT_MAX:
            self._known.popitem(last=False)
        return subject
