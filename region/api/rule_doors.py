"""The operators' doors to the rules: what holds, what a proposal would change, and publishing it, audited."""

import asyncio
from collections import Counter
from dataclasses import dataclass

from aiohttp import web

from infra.contracts.messages import HomeRequest, Invalidation, SlateItem
from infra.contracts.residency import encode_regional
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError, InvalidInputError
from infra.plumbing.grid.port import Grid
from region.api.announcing import Announcer
from region.api.decoding import decode_body, read_body
from region.api.doors import Door
from region.api.routes import json_response
from region.api.rule_messages import PublishAnswer, RulesAnswer, RulesProposal
from region.funnel.dry_run import REQUESTS_MAX, DryRunAnswer, Proposal, RequestLog, dry_run
from region.funnel.recommender import Recommender
from region.funnel.release import LoadedRelease
from region.funnel.ruling import bind_rules
from region.privacy.access_log import AccessLog
from region.publishing.book import Edition, Publication, edition_of
from region.publishing.telling import hear_publications, tell_publication
from region.releases.activation import Activator
from region.rules.book import RULES_TOPIC, RuleBook
from region.rules.examining import Examination, examine
from region.rules.reading import DOCUMENT_BYTES_MAX, read_rules
from region.rules.ruleset import DEFAULTS_EDITION, compile_rules
from region.rules.schema import RuleFile

BODY_BYTES_MAX = 2 * DOCUMENT_BYTES_MAX


@dataclass(frozen=True, slots=True, kw_only=True)
class RuleDoors:
    """Handlers of `/operator/v1/rules`."""

    region: str
    book: RuleBook
    recommender: Recommender
    requests: RequestLog
    accesses: AccessLog
    activator: Activator[LoadedRelease]
    announcer: Announcer
    grid: Grid
    clock: Clock
    operators_only: Door

    def routes(self) -> list[web.RouteDef]:
        """The routes to put into the application."""
        return [
            web.get("/operator/v1/rules", self.show),
            web.post("/operator/v1/rules/diff", self.diff),
            web.post("/operator/v1/rules/publish", self.publish),
        ]

    async def show(self, request: web.Request) -> web.Response:
        """The rules that hold here."""
        self.operators_only(request)
        current = self.book.current
        held = current.publication if current else Publication(document="", edition=DEFAULTS_EDITION)
        answer = RulesAnswer(
            edition=held.edition, document=held.document, operator=held.operator, published_at_ms=held.published_at_ms,
            version=held.version,
        )  # fmt: skip
        return json_response(encode_regional(answer))

    async def diff(self, request: web.Request) -> web.Response:
        """A dry run of a proposal on the last requests: it shows what people would get, so it is an access."""
        who = self.operators_only(request)
        proposal, examined, wanted = await self._proposal(request)
        await asyncio.to_thread(
            self.accesses.append, who=who, action="dry run of rules", outcome="asked",
            detail=f"{wanted.requests} requests",
        )  # fmt: skip
        answer = await self._dry_run(proposal, examined, wanted.requests)
        return json_response(encode_regional(answer))

    async def publish(self, request: web.Request) -> web.Response:
        """Make a proposal the rules of the region: durable, then in force here, then told to nodes and edges."""
        operator = self.operators_only(request) or ""
        before = self._edition()
        try:
            (edition, _), examined, wanted = await self._proposal(request)
            held = await asyncio.to_thread(
                self.book.publish, wanted.document, operator=operator, edition=edition, clock=self.clock,
                statement=wanted.statement,
            )  # fmt: skip
        except AtollError as error:
            await self._audit(operator, "refused", f"{before}: {error.message[:200]}")
            raise
        await self._audit(operator, "done", f"{before} -> {edition}")
        told = await tell_rules(self.grid, self.announcer, self.book)
        answer = PublishAnswer(
            edition=edition, before=before, findings=examined.findings, told=told, version=held.publication.version
        )
        return json_response(encode_regional(answer))

    async def _proposal(self, request: web.Request) -> tuple[Proposal, Examination, RulesProposal]:
        wanted = decode_body(await read_body(request, bytes_max=BODY_BYTES_MAX), RulesProposal)
        if not 1 <= wanted.requests <= REQUESTS_MAX:
            raise InvalidInputError("requests is out of range.", fix=f"It goes from 1 to {REQUESTS_MAX}.")
        # A large file takes seconds to read: not on the loop.
        file = await asyncio.to_thread(read_rules, wanted.document)
        if file.region not in (self.region, "any"):
            raise InvalidInputError(f"these are the rules of {file.region}, not of {self.region}.")
        with self.activator.lease() as release:
            examined = await asyncio.to_thread(examined_on, release, file, now_s=self.clock.now_ms() / 1000)
        examined.refuse_nonsense()
        return (edition_of(wanted.document), file), examined, wanted

    async def _dry_run(self, proposal: Proposal, examined: Examination, count: int) -> DryRunAnswer:
        async def answer(request: HomeRequest, proposed: Proposal | None) -> tuple[SlateItem, ...]:
            return await self.recommender.rehearse(request, proposed)

        return await dry_run(
            self.requests.latest(count), answer, proposal, edition=self._edition(), findings=examined.findings,
            clock=self.clock,
        )  # fmt: skip

    def _edition(self) -> str:
        return self.book.current.name if self.book.current else DEFAULTS_EDITION

    async def _audit(self, operator: str, outcome: str, detail: str) -> None:
        active = self.activator.active_release
        await self.activator.operations.record("publish-rules", operator, active, active, outcome, detail)


def examined_on(release: LoadedRelease, file: RuleFile, *, now_s: float) -> Examination:
    """What `file` does to the favourites of `release`."""
    failures: Counter[str] = Counter()
    rules = compile_rules(file, edition="examined", defaults=release.tables.rules)
    bound = bind_rules(rules, release.tables, on_error=lambda source: failures.update((source,)))
    return examine(bound, release.standing.popular, now_s=now_s, failures=failures)


async def tell_rules(grid: Grid, announcer: Announcer, book: RuleBook) -> bool:
    """Tell the region's other nodes the document, and its edges that lists made before need the region's word."""
    current = book.current
    if current is None or not current.publication.document:
        return True
    if not await tell_publication(grid, RULES_TOPIC, current.publication):
        return False
    return await announcer.tell(Invalidation(rules=current.name))


async def hear_rules(grid: Grid, announcer: Announcer, book: RuleBook) -> None:
    """Take over what other nodes publish; ask for theirs after every (re)connect. Ends when the grid ends it."""

    async def took(edition: Edition[RuleFile]) -> None:
        # Lists that this node made under its older rules since the first word to the edges.
        await announcer.tell(Invalidation(rules=edition.name))

    async def tell() -> None:
        await tell_rules(grid, announcer, book)

    await hear_publications(grid, RULES_TOPIC, book, took=took, tell=tell)
