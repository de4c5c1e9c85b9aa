"""The operator's HTTP API of a region, under `/operator/v1/`. Errors become problem documents in the app's frame."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from aiohttp import web

from infra.contracts.residency import RegionalMessage, encode_regional
from infra.plumbing.aside import aside
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.http.bodies import NOT_JSON
from infra.plumbing.tuf_client.manifests import check_release_id
from region.releases.activation import Activator
from region.releases.audit import AuditLog
from region.releases.following import pull
from region.releases.looks import DiffCall, Looks
from region.releases.messages import AUDIT_ENTRIES_MAX, AuditAnswer, PromoteRequest, PullRequest, ReleaseRequest
from region.releases.store import ReleaseStore
from region.releases.trial import TrialKind, TrialPlan
from region.releases.trials import Trials

PREFIX = "/operator/v1"
BODY_BYTES_MAX = 16 * 1024
AUDIT_ENTRIES_DEFAULT = 100
M = TypeVar("M", bound=RegionalMessage)
_Action = Callable[[web.Request, str], Awaitable[RegionalMessage]]


def operator_routes(
    *,
    store: ReleaseStore,
    activator: Activator[Any],
    trials: Trials[Any],
    audit: AuditLog,
    authorize: Callable[[web.Request], str],
) -> list[web.RouteDef]:
    """The routes; add them to an application whose frame maps `AtollError`.

    Args:
        store: releases on disk.
        activator: which release answers.
        trials: shadows and canaries.
        audit: what is shown by `GET audit`.
        authorize: the operator's name of a request, or raises UnauthorizedError or ForbiddenError.
    """
    api = _OperatorApi(store, activator, trials, audit)
    looks = _LookingApi(Looks(store, active=lambda: activator.active_release))

    def guarded(action: _Action) -> Callable[[web.Request], Awaitable[web.Response]]:
        async def handler(request: web.Request) -> web.Response:
            answer = await action(request, authorize(request))
            headers = {"Cache-Control": "no-store"}
            return web.Response(body=encode_regional(answer), content_type="application/json", headers=headers)

        return handler

    return [
        web.get(f"{PREFIX}/releases", guarded(api.releases)),
        web.get(f"{PREFIX}/published", guarded(looks.published)),
        web.get(f"{PREFIX}/releases/{{release}}", guarded(looks.inspect)),
        web.get(f"{PREFIX}/diff", guarded(looks.diff)),
        web.get(f"{PREFIX}/audit", guarded(api.audit)),
        web.post(f"{PREFIX}/pull", guarded(api.pull)),
        web.post(f"{PREFIX}/verify", guarded(api.verify)),
        web.post(f"{PREFIX}/promote", guarded(api.promote)),
        web.post(f"{PREFIX}/rollback", guarded(api.rollback)),
        web.post(f"{PREFIX}/pin", guarded(api.pin)),
        web.post(f"{PREFIX}/unpin", guarded(api.unpin)),
        web.post(f"{PREFIX}/freeze", guarded(api.freeze)),
        web.post(f"{PREFIX}/unfreeze", guarded(api.unfreeze)),
        web.post(f"{PREFIX}/shadow", guarded(api.shadow)),
        web.post(f"{PREFIX}/canary", guarded(api.canary)),
        web.get(f"{PREFIX}/trial", guarded(api.trial)),
        web.post(f"{PREFIX}/trial/stop", guarded(api.stop_trial)),
    ]


class _OperatorApi:
    """One method for each route."""

    def __init__(self, store: ReleaseStore, activator: Activator[Any], trials: Trials[Any], audit: AuditLog) -> None:
        self._store = store
        self._activator = activator
        self._trials = trials
        self._audit = audit

    async def releases(self, _request: web.Request, _operator: str) -> RegionalMessage:
        return await self._activator.status()

    async def audit(self, request: web.Request, _operator: str) -> RegionalMessage:
        count = _count(request.query.get("n", str(AUDIT_ENTRIES_DEFAULT)))
        return AuditAnswer(entries=await asyncio.to_thread(self._audit.latest, count))

    async def pull(self, request: web.Request, operator: str) -> RegionalMessage:
        wanted = await _body(request, PullRequest)
        if (wanted.channel is None) == (wanted.release is None):
            raise InvalidInputError(
                "A pull names either a channel or a release.", fix='Send {"channel": "stable"}, say.'
            )
        return await pull(
            self._store, self._activator, wanted.release, operator=operator, channel=wanted.channel or ""
        )  # fmt: skip

    async def verify(self, request: web.Request, operator: str) -> RegionalMessage:
        wanted = await _body(request, ReleaseRequest)
        report = await aside(self._store.verify, wanted.release)
        outcome, detail = ("done", "") if report.ok else ("failed", f"damaged: {', '.join(report.damaged[:5])}")
        await self._activator.operations.record(
            "verify", operator, self._activator.active_release, wanted.release, outcome, detail
        )
        return report

    async def promote(self, request: web.Request, operator: str) -> RegionalMessage:
        wanted = await _body(request, PromoteRequest)
        if wanted.dry_run:
            return await self._activator.rehearse(wanted.release)
        return await self._activator.promote(wanted.release, operator=operator)

    async def rollback(self, _request: web.Request, operator: str) -> RegionalMessage:
        return await self._activator.roll_back(operator=operator)

    async def pin(self, _request: web.Request, operator: str) -> RegionalMessage:
        return await self._activator.set_pinned(pinned=True, operator=operator)

    async def unpin(self, _request: web.Request, operator: str) -> RegionalMessage:
        return await self._activator.set_pinned(pinned=False, operator=operator)

    async def freeze(self, _request: web.Request, operator: str) -> RegionalMessage:
        return await self._activator.set_frozen(frozen=True, operator=operator)

    async def unfreeze(self, _request: web.Request, operator: str) -> RegionalMessage:
        return await self._activator.set_frozen(frozen=False, operator=operator)

    async def shadow(self, request: web.Request, operator: str) -> RegionalMessage:
        return await self._trials.begin(TrialKind.SHADOW, await _body(request, TrialPlan), operator=operator)

    async def canary(self, request: web.Request, operator: str) -> RegionalMessage:
        return await self._trials.begin(TrialKind.CANARY, await _body(request, TrialPlan), operator=operator)

    async def trial(self, _request: web.Request, _operator: str) -> RegionalMessage:
        return self._trials.report()

    async def stop_trial(self, _request: web.Request, operator: str) -> RegionalMessage:
        return await self._trials.stop(operator=operator)


class _LookingApi:
    """What changes nothing, and stands in no audit."""

    def __init__(self, looks: Looks) -> None:
        self._looks = looks

    async def published(self, _request: web.Request, _operator: str) -> RegionalMessage:
        return await self._looks.published()

    async def inspect(self, request: web.Request, _operator: str) -> RegionalMessage:
        return await self._looks.inspect(check_release_id(request.match_info["release"]))

    async def diff(self, request: web.Request, _operator: str) -> RegionalMessage:
        return await self._looks.diff(_diff_call(dict(request.query)))


def _diff_call(query: dict[str, str]) -> DiffCall:
    """The question in a query string, `?before=ID&after=ID&people=50&seed=0`.

    Raises:
        InvalidInputError: a part of it cannot be used.
    """
    try:
        call = msgspec.convert(query, DiffCall, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInputError(
            f"The question cannot be used: {error}.", fix="Ask ?before=ID&after=ID, and people and seed if you like."
        ) from error
    for release in filter(None, (call.before, call.after)):
        check_release_id(release)
    return call


async def _body(request: web.Request, kind: type[M]) -> M:
    """The body of `request`, decoded.

    Raises:
        InvalidInputError: too long, not JSON, or not of this kind.
    """
    content = await request.content.read(BODY_BYTES_MAX + 1)
    while len(content) <= BODY_BYTES_MAX and not request.content.at_eof():
        content += await request.content.read(BODY_BYTES_MAX + 1 - len(content))
    if len(content) > BODY_BYTES_MAX:
        raise InvalidInputError(f"The body is longer than {BODY_BYTES_MAX} bytes.")
    try:
        return msgspec.json.decode(content, type=kind)
    except NOT_JSON as error:
        fields = ", ".join(kind.__struct_fields__)
        raise InvalidInputError(f"The body cannot be used: {error}.", fix=f"Send JSON with: {fields}.") from error


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= AUDIT_ENTRIES_MAX and len(text) < 9):
        raise InvalidInputError("n is not a count.", fix=f"Use a whole number from 1 to {AUDIT_ENTRIES_MAX}.")
    return int(text)
