"""What an edge may have missed: purges of the last minutes, the items withdrawn, the release. Asked for over HTTP.

The grid tells the edges at once. This is for an edge that starts, for one that the grid no longer reaches, and for
the message that was lost without anybody noticing.
"""

import hashlib
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import msgspec
from aiohttp import web

from infra.contracts.kept_out import ItemsKeptOut, kept_out_digest
from infra.contracts.messages import (
    INVALIDATION_TOPIC,
    PURGED_NAMES_MAX,
    Invalidation,
    Notices,
    NoticesCall,
    Purge,
)
from infra.contracts.residency import encode_global
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.grid.port import Grid
from infra.plumbing.ids import new_request_id
from region.api.announcing import Announcer
from region.api.checking import check_ids
from region.api.decoding import decode_body, read_body
from region.api.doors import Door
from region.api.messages import PurgeAnswer, PurgeCall
from region.api.routes import json_response
from region.releases.operations import Operations
from region.rules.regional import Withdrawals

KEPT_S = 600.0
PURGES_MAX = 256
CALL_BYTES_MAX = 4 << 10


class NoticeBoard:
    """Purges that this node heard of, the newest PURGES_MAX and at most KEPT_S old. The event loop's only."""

    def __init__(
        self, *, clock: Clock, withdrawals: Withdrawals, release: Callable[[], str | None],
        kept_out: Callable[[], tuple[ItemsKeptOut, ...] | None] = lambda: None,
    ) -> None:  # fmt: skip
        self._clock = clock
        self._kept_out = kept_out
        self._named: tuple[tuple[ItemsKeptOut, ...] | None, str] = (None, "")
        self._withdrawals = withdrawals
        self._release = release
        self._boot = new_request_id()
        self._number = 0
        self._purges: deque[tuple[int, float, tuple[str, ...]]] = deque(maxlen=PURGES_MAX)
        self._digested: tuple[frozenset[str], str] = (frozenset(), withdrawn_digest(frozenset()))

    def post(self, purged: tuple[str, ...]) -> None:
        """Remember a purge."""
        self._number += 1
        self._purges.append((self._number, self._clock.monotonic_s(), purged))

    def read(self, call: NoticesCall) -> Notices:
        """What holds now."""
        now_s = self._clock.monotonic_s()
        while self._purges and now_s - self._purges[0][1] > KEPT_S:
            self._purges.popleft()
        items = self._withdrawals.items
        if items is not self._digested[0]:
            self._digested = (items, withdrawn_digest(items))
        digest = self._digested[1]
        kept_out = self._kept_out()
        if kept_out is not self._named[0]:
            self._named = (kept_out, "" if kept_out is None else kept_out_digest(kept_out))
        return Notices(
            boot=self._boot,
            release=self._release(),
            withdrawn=None if call.withdrawn_digest == digest else tuple(sorted(items)),
            withdrawn_digest=digest,
            purges=tuple(
                Purge(number=number, age_ms=(now_s - at_s) * 1000, purged=purged)
                for number, at_s, purged in self._purges
            ),
            kept_out=None if call.kept_out_digest == self._named[1] else kept_out,
            kept_out_digest=self._named[1],
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeDoors:
    """`POST /v1/notices` for this region's edges, `POST /operator/v1/lists/purge` for its operators."""

    board: NoticeBoard
    announcer: Announcer
    home_only: Door
    operators_only: Door
    operations: Operations
    body_bytes_max: int

    def routes(self) -> list[web.RouteDef]:
        """The routes to put into the application."""
        return [web.post("/v1/notices", self.notices), web.post("/operator/v1/lists/purge", self.purge)]

    async def notices(self, request: web.Request) -> web.Response:
        """What an edge may have missed."""
        self.home_only(request)
        call = decode_body(await read_body(request, bytes_max=CALL_BYTES_MAX), NoticesCall)
        return json_response(encode_global(self.board.read(call)))

    async def purge(self, request: web.Request) -> web.Response:
        """Purge lists by item and by tag: on this node's board, then told to the edges and the other nodes; audited."""
        operator = self.operators_only(request)
        call = decode_body(await read_body(request, bytes_max=self.body_bytes_max), PurgeCall)
        purged = _names(call)
        self.board.post(purged)
        told = await self.announcer.tell(Invalidation(purged=purged))
        await self.operations.noted(operator, "purge", f"{len(purged)}: {' '.join(purged)}")
        return json_response(encode_global(PurgeAnswer(purged=len(purged), edges_told=told)))


async def hear_purges(grid: Grid, board: NoticeBoard) -> None:
    """Take over what operators purge at other nodes of this region; ends when the grid ends it.

    This node's own purges come back over the grid too: they stand twice on the board, which costs an edge nothing.
    """
    async for message in grid.subscribe(INVALIDATION_TOPIC):
        if message is None:
            continue
        heard = msgspec.json.decode(message, type=Invalidation)
        if heard.purged:
            board.post(heard.purged)


def withdrawn_digest(items: frozenset[str]) -> str:
    """A name of a set of withdrawn items that every node and edge gives alike."""
    return hashlib.blake2b(msgspec.json.encode(sorted(items)), digest_size=12).hexdigest()


def _names(call: PurgeCall) -> tuple[str, ...]:
    if not call.items and not call.tags:
        raise InvalidInputError("nothing is purged.", fix="Name items or tags.")
    check_ids("items", call.items, count_max=PURGED_NAMES_MAX)
    check_ids("tags", call.tags, count_max=PURGED_NAMES_MAX)
    if not all(":" in tag for tag in call.tags):
        raise InvalidInputError("tags holds an entry without a kind.", fix="Write category:drama or brand:acme.")
    names = (*(f"item:{item}" for item in call.items), *call.tags)
    if len(names) > PURGED_NAMES_MAX:
        raise InvalidInputError(f"more than {PURGED_NAMES_MAX} names.", fix="Purge in several calls.")
    return names
