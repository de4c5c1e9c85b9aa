"""The doors of this room: for operators by user or pseudonym, for the region's own edges by pseudonym. All audited."""

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
from region.privacy.erasing import Eraser
from region.privacy.exporting import Exporter
from region.privacy.messages import SubjectCall
from region.store.subjects import erasure_mark, user_subject

BODY_BYTES_MAX = 4 << 10
Record = Callable[[str, str, str, str], Awaitable[None]]
"""Into the audit: action, who, outcome, detail."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PrivacyDoors:
    """Handlers of `/operator/v1/privacy/...` and `/v1/privacy/...`."""

    keys: RegionKeys
    exporter: Exporter
    eraser: Eraser
    home_only: Door
    operators_only: Door
    record: Record

    def routes(self) -> list[web.RouteDef]:
        """The routes to put into the application."""
        routes = []
        for prefix, door in (("/operator/v1", self.operators_only), ("/v1", self.home_only)):
            for name, act in (("export", self.exporter.export), ("erase", self.eraser.erase)):
                routes.append(web.post(f"{prefix}/privacy/{name}", self._handler(name, door, act)))
        return routes

    def _handler(
        self, name: str, door: Door, act: Callable[[str], Awaitable[RegionalMessage]]
    ) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handle(request: web.Request) -> web.Response:
            who = door(request)
            call = decode_body(await read_body(request, bytes_max=BODY_BYTES_MAX), SubjectCall)
            subject = self._subject_of(call)
            # The audit outlives the subject: it knows it by its mark.
            mark = erasure_mark(subject)
            try:
                body = encode_regional(await act(subject))
            except AtollError as error:
                await self.record(f"{name}-subject", who, "failed", f"{mark}: {type(error).__name__}")
                raise
            await self.record(f"{name}-subject", who, "done", f"{mark}: sha256 {hashlib.sha256(body).hexdigest()}")
            return json_response(body)

        return handle

    def _subject_of(self, call: SubjectCall) -> str:
        if (call.user is None) == (call.subject is None):
            raise InvalidInputError("say either user or subject.", fix="user: the application's id of the user.")
        if call.user is not None:
            return user_subject(self.keys, call.user)
        check_subject(call.subject)
        return str(call.subject)
