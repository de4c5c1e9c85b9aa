"""The doors of this room: for operators by user or pseudonym, for the region's own edges by pseudonym.

Nobody's data is read before it is written down that it will be (`access_log.py`): a disk that takes no entry closes
the doors.
"""

import asyncio
import hashlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from aiohttp import web

from infra.contracts.residency import RegionalMessage, encode_regional
from infra.plumbing.errors import AtollError, InvalidInputError
from infra.plumbing.keys import RegionKeys
from region.api.decoding import decode_body, read_body
from region.api.doors import Door
from region.api.routes import check_subject, json_response
from region.privacy.access_log import AccessLog
from region.privacy.erasing import Eraser
from region.privacy.explaining import Explainer
from region.privacy.exporting import Exporter
from region.privacy.messages import AccessPage, SubjectCall
from region.store.subjects import erasure_mark, user_subject

BODY_BYTES_MAX = 4 << 10
PAGE_MAX = 1_000
Act = Callable[[str, SubjectCall], Awaitable[RegionalMessage]]


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyDoors:
    """Handlers of `/operator/v1/privacy/...` and `/v1/privacy/...`."""

    keys: RegionKeys
    exporter: Exporter
    eraser: Eraser
    explainer: Explainer
    home_only: Door
    operators_only: Door
    accesses: AccessLog

    def routes(self) -> list[web.RouteDef]:
        """The routes to put into the application."""
        routes = []
        for prefix, door in (("/operator/v1", self.operators_only), ("/v1", self.home_only)):
            for name, act in self._acts().items():
                routes.append(web.post(f"{prefix}/privacy/{name}", self._handler(name, door, act)))
        routes.append(web.get("/operator/v1/privacy/accesses", self.show_accesses))
        return routes

    async def show_accesses(self, request: web.Request) -> web.Response:
        """A page of who read or changed whose data: `after` a number, `limit` entries. The first page is an access."""
        who = self.operators_only(request)
        after, limit = _number(request, "after", 0), min(PAGE_MAX, _number(request, "limit", PAGE_MAX))
        if after == 0:
            await self._note(who, "audit", "done")
        head = await asyncio.to_thread(self.accesses.head)
        entries = await asyncio.to_thread(self.accesses.entries, after=after, limit=limit)
        return json_response(encode_regional(AccessPage(entries=tuple(entries), head=head)))

    def _acts(self) -> dict[str, Act]:
        return {
            "export": lambda subject, _call: self.exporter.export(subject),
            "erase": lambda subject, _call: self.eraser.erase(subject),
            "receipt": lambda subject, _call: self.eraser.look_again(subject),
            "why": lambda subject, call: self.explainer.explain(subject, item=call.item, locale=call.locale),
        }

    def _handler(self, name: str, door: Door, act: Act) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            who = door(request)
            call = decode_body(await read_body(request, bytes_max=BODY_BYTES_MAX), SubjectCall)
            subject = self._subject_of(call)
            # The account outlives the subject: it knows it by its mark.
            mark = erasure_mark(subject)
            await self._note(who, name, "asked", mark)
            try:
                body = encode_regional(await act(subject, call))
            except AtollError as error:
                await self._note(who, name, "failed", mark, type(error).__name__)
                raise
            await self._note(who, name, "done", mark, f"sha256 {hashlib.sha256(body).hexdigest()}")
            return json_response(body)

        return handle

    async def _note(self, who: str, action: str, outcome: str, mark: str = "", detail: str = "") -> None:
        await asyncio.to_thread(
            self.accesses.append, who=who, action=action, outcome=outcome, mark=mark, detail=detail
        )  # fmt: skip

    def _subject_of(self, call: SubjectCall) -> str:
        if (call.user is None) == (call.subject is None):
            raise InvalidInputError("say either user or subject.", fix="user: the application's id of the user.")
        if call.user is not None:
            return user_subject(self.keys, call.user)
        check_subject(call.subject)
        return str(call.subject)


def _number(request: web.Request, name: str, default: int) -> int:
    text = request.query.get(name, str(default))
    if not (text.isascii() and text.isdigit() and len(text) <= 15):
        raise InvalidInputError(f"{name} is not a number.", fix=f"Send ?{name}={default}.")
    return int(text)
