"""The object graph of one edge, and its life: built once, in one place."""

import asyncio
import functools
from collections.abc import Callable, Coroutine
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
from aiohttp import web

from edge.answering.parts import Parts
from edge.answering.warming import Warmer
from edge.background import Background
from edge.cache.entry import Entry
from edge.cache.filling import FillingSettings, ListFiller
from edge.cache.invalidation import Ledger
from edge.cache.l1 import L1Cache
from edge.cache.shared import SharedLists
from edge.compatibility.desk import CompatibleDesk
from edge.compatibility.gorse import GorseDoor
from edge.compatibility.personalize import PersonalizeDoor
from edge.discovery.desk import DiscoveryDesk
from edge.draining import Drain
from edge.hot.learning import listen_in
from edge.hot.path import HotParts, HotPath
from edge.hot.protocol import HotRunner, is_supported
from edge.hot.ready import ReadyAnswers
from edge.http.identity import Identities
from edge.http.routes import EdgeRoutes
from edge.jitter import Uniform
from edge.limits.buckets import CallerLimits, Rate
from edge.limits.lag import LoopLag, watch_lag
from edge.limits.sharing import hear_taken, tell_taken
from edge.listening import Told, start_listening
from edge.lists.library import ListLibrary, ReleaseSource
from edge.lists.shelf import ListShelf
from edge.metrics import EdgeMetrics
from edge.routing.breaker import BreakerPolicy
from edge.routing.concurrency import ConcurrencyPolicy
from edge.routing.desk import RegionDesk
from edge.routing.dispatch import Dispatcher
from edge.routing.health import Target, Targets
from edge.routing.ladder import Shares
from edge.routing.port import RegionPort
from edge.routing.probes import Prober
from edge.routing.region_http import HttpRegion
from edge.routing.retry_budget import RetryBudget
from edge.settings import EdgeSettings
from infra.contracts.messages import HomeAnswer
from infra.plumbing.clock import Clock
from infra.plumbing.grid.port import Grid
from infra.plumbing.http.guarding import GuardedRunner
from infra.plumbing.http.middleware import RequestStats, frame, operations_routes
from infra.plumbing.http.tls import client_context
from infra.plumbing.keys import RegionKeys, Trust
from infra.plumbing.service_keys import KeyRing
from infra.plumbing.telemetry import Telemetry

HOT_PATH = web.AppKey("atoll_hot_path", HotPath)
DRAIN = web.AppKey("atoll_drain", Drain)


@dataclass(frozen=True, slots=True, kw_only=True)
class Outside:
    """What an edge is given: the world around it. `open_source` makes the client of the release repository."""

    settings: EdgeSettings
    keys: RegionKeys
    trust: Trust
    service_keys: KeyRing
    telemetry: Telemetry
    clock: Clock
    uniform: Uniform
    grid: Grid
    open_source: Callable[[], ReleaseSource]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """The parts of a running edge."""

    parts: Parts
    targets: Targets
    shelf: ListShelf
    library: ListLibrary
    ledger: Ledger
    background: Background
    prober: Prober
    metrics: EdgeMetrics
    cache: L1Cache[Entry]
    answers: ReadyAnswers
    warmer: Warmer
    drain: Drain

    def waits_for(self) -> str | None:
        """What this edge waits for before it can answer; None when it can."""
        if self.drain.announced or self.drain.begun:
            return "its end: it is draining"
        if self.shelf.current is not None or self.targets.answered(self.parts.own_region):
            return None if self.warmer.is_done else "lists that were in demand before it was stopped"
        return "the release's lists, or an answer of the home region"


def build(outside: Outside, region: RegionPort, metrics: EdgeMetrics) -> Edge:
    """Put the parts together; nothing runs yet."""
    settings, clock = outside.settings, outside.clock
    targets = Targets(
        _targets(settings), policy=BreakerPolicy(trial_max_s=2 * settings.fill_deadline_ms / 1000),
        concurrency=ConcurrencyPolicy(limit_max=settings.connections_per_node_max),
    )  # fmt: skip
    dispatcher = Dispatcher(
        targets=targets, clock=clock, budget=RetryBudget(), try_timeout_s=settings.try_timeout_ms / 1000,
        counted=lambda kind: metrics.routing.labels(kind).inc(),
    )  # fmt: skip
    ledger = Ledger(clock=clock)
    background = Background(telemetry=outside.telemetry, dropped=metrics.dropped_work.inc)
    library = ListLibrary(
        directory=Path(settings.state_directory) / "lists", open_source=outside.open_source, region=settings.region,
        channel=settings.channel,
    )  # fmt: skip
    shelf = ListShelf(
        library=library, telemetry=outside.telemetry, uniform=outside.uniform, poll_s=settings.lists_poll_s,
        counted=lambda outcome: metrics.lists.labels(outcome).inc(),
    )  # fmt: skip

    def heard(answer: HomeAnswer) -> None:
        if ledger.learn(answer):
            shelf.want(answer.release)

    desk = RegionDesk(own_region=settings.region, dispatcher=dispatcher, region=region, clock=clock, heard=heard)
    answers = ReadyAnswers()
    cache: L1Cache[Entry] = L1Cache(bytes_max=settings.cache_bytes_max, left=answers.forget)
    shared = SharedLists(
        grid=outside.grid, clock=clock, timeout_s=settings.grid_timeout_ms / 1000,
        counted=lambda outcome: metrics.grid.labels(outcome).inc(),
    )  # fmt: skip
    away_regions = tuple(settings.away_urls)
    filler = ListFiller(
        settings=FillingSettings(
            own_region=settings.region, away_regions=away_regions, fill_deadline_s=settings.fill_deadline_ms / 1000,
            away_life_s=settings.away_list_life_s, fills_max=settings.fills_max,
            per_list=Rate(settings.fills_per_list_s, settings.burst_per_list),
        ),
        cache=cache, shared=shared, ledger=ledger, desk=desk, background=background, clock=clock,
        uniform=outside.uniform, metrics=metrics,
    )  # fmt: skip
    parts = Parts(
        own_region=settings.region, away_regions=away_regions, filler=filler, desk=desk, dispatcher=dispatcher,
        region=region, ledger=ledger, trust=outside.trust, lists=lambda: shelf.current, clock=clock, metrics=metrics,
        shares=Shares(), lag=LoopLag(),
    )  # fmt: skip
    prober = Prober(
        targets=targets, region=region, clock=clock, uniform=outside.uniform, interval_s=settings.probe_interval_s
    )
    return Edge(
        parts=parts, targets=targets, shelf=shelf, library=library, ledger=ledger, background=background,
        prober=prober, metrics=metrics, cache=cache, answers=answers,
        drain=Drain(),
        warmer=Warmer(
            path=Path(settings.state_directory) / "warm-keys.json", cache=cache, filler=filler, dispatcher=dispatcher,
            grid=outside.grid, within_s=settings.warm_within_s,
        ),
    )  # fmt: skip


def _targets(settings: EdgeSettings) -> list[Target]:
    regions = {settings.region: settings.home_urls, **settings.away_urls}
    return [
        Target(region, url.rstrip("/"), place) for region, urls in regions.items() for place, url in enumerate(urls)
    ]


async def make_app(outside: Outside, stack: AsyncExitStack) -> web.Application:
    """The application of one edge, running behind `stack`: leaving the stack stops all of it."""
    settings, telemetry = outside.settings, outside.telemetry
    context = None if settings.regions_tls is None else client_context(settings.regions_tls, clock=outside.clock)
    if context is not None:
        _keep(context.follow(), stack, telemetry)
    connector = aiohttp.TCPConnector(
        limit=0, limit_per_host=settings.connections_per_node_max, keepalive_timeout=30.0, enable_cleanup_closed=False,
        ssl=True if context is None else context.context,
    )  # fmt: skip
    session = await stack.enter_async_context(
        aiohttp.ClientSession(connector=connector, auto_decompress=False, cookie_jar=aiohttp.DummyCookieJar())
    )
    metrics = EdgeMetrics(telemetry.registry)

    def counted(path: str, outcome: str) -> None:
        metrics.region_calls.labels(path, outcome).inc()

    region = HttpRegion(
        session=session,
        service_key=outside.keys.service_key,
        connect_timeout_s=settings.connect_timeout_ms / 1000,
        telemetry=telemetry,
        counted=counted,
    )
    edge = build(outside, region, metrics)
    watch(edge)
    identities = Identities(
        keys=outside.keys, trust=outside.trust, clock=outside.clock, service_keys=outside.service_keys
    )
    await _run(edge, outside, stack, identities)
    stats = RequestStats(telemetry.registry)
    app = web.Application(middlewares=[frame(telemetry, outside.clock, stats)], client_max_size=settings.body_bytes_max)
    caller_limits = CallerLimits(rate=Rate(settings.requests_per_caller_s, settings.burst_per_caller))
    address_limits = CallerLimits(rate=Rate(settings.requests_per_address_s, settings.burst_per_address))
    for work in _sharing(outside, caller_limits, metrics):
        _keep(work, stack, telemetry)
    discovery = DiscoveryDesk(edge.parts, deadline_s=settings.fill_deadline_ms / 1000)
    stack.push_async_callback(discovery.close)
    routes = EdgeRoutes(
        parts=edge.parts, discovery=discovery, settings=settings, identities=identities, caller_limits=caller_limits,
        address_limits=address_limits,
    )  # fmt: skip
    desk = CompatibleDesk(
        parts=edge.parts, identities=identities, limits=address_limits, deadline_s=settings.deadline_ms / 1000,
        events_deadline_s=settings.event_deadline_ms / 1000, body_timeout_s=settings.body_timeout_s,
    )  # fmt: skip
    app.add_routes([*PersonalizeDoor(desk=desk).routes(), *GorseDoor(desk=desk).routes()])
    app.add_routes([*routes.table(), *operations_routes(telemetry, edge.waits_for)])
    app.on_response_prepare.append(_secure)
    app[DRAIN] = edge.drain
    app.on_response_prepare.append(edge.drain.on_prepare)
    if settings.hot_path:
        hot = HotPath(
            HotParts(
                identities=identities, caller_limits=caller_limits, address_limits=address_limits, ledger=edge.ledger,
                answers=edge.answers, metrics=metrics, stats=stats, telemetry=telemetry,
                clock=outside.clock,
                drain=edge.drain, hot_keys=edge.parts.filler.hot_keys,
            )
        )  # fmt: skip
        app[HOT_PATH] = hot
        listen_in(app, hot)
    return app


def runner_of(app: web.Application, settings: EdgeSettings, telemetry: Telemetry) -> Callable[..., web.AppRunner]:
    """What serves `app`: with the hot path where the settings want it and this version of aiohttp allows it."""
    if not settings.hot_path:
        return GuardedRunner
    if not is_supported():
        telemetry.logger.warning("the hot path does not fit this version of aiohttp and is off")
        return GuardedRunner
    return functools.partial(HotRunner, hot=app[HOT_PATH])


async def _secure(_request: web.Request, response: web.StreamResponse) -> None:
    response.headers.setdefault("X-Content-Type-Options", "nosniff")
    response.headers["Server"] = "atoll-edge"  # Versions of what we run are nobody's business.


async def _run(edge: Edge, outside: Outside, stack: AsyncExitStack, identities: Identities) -> None:
    """Start what runs beside the requests. Stopped in the opposite order."""
    stack.callback(edge.library.close)
    stack.push_async_callback(edge.parts.dispatcher.close)
    stack.push_async_callback(edge.background.close)
    stack.push_async_callback(edge.parts.filler.close)

    def released(release: str) -> None:
        edge.shelf.want(release)
        outside.telemetry.logger.info("the region switched", extra={"fields": {"release": release}})

    def erased(subject: str) -> None:
        edge.parts.filler.drop_subject(subject)
        identities.forget(subject)

    listening = await start_listening(
        settings=outside.settings, ledger=edge.ledger, grid=outside.grid, region=edge.parts.region,
        clock=outside.clock, uniform=outside.uniform, metrics=edge.metrics,
        told=Told(of_release=released, of_erasure=erased, of_opt_out=edge.parts.filler.drop_subject),
    )  # fmt: skip
    lag = watch_lag(edge.parts.lag, outside.clock)
    for work in (edge.shelf.run(), edge.prober.run(), edge.warmer.run(), lag, *listening):
        _keep(work, stack, outside.telemetry)


def _sharing(outside: Outside, limits: CallerLimits, metrics: EdgeMetrics) -> list[Coroutine[Any, Any, None]]:
    node, grid = outside.settings.node, outside.grid

    def counted(outcome: str) -> None:
        metrics.shared_limits.labels(outcome).inc()

    return [
        tell_taken(grid, limits, node=node, counted=counted),
        hear_taken(grid, limits, node=node, clock=outside.clock, counted=counted),
    ]


def _keep(work: Coroutine[Any, Any, None], stack: AsyncExitStack, telemetry: Telemetry) -> None:
    async def reported() -> None:
        try:
            await work
        except Exception:
            # The edge goes on answering without it; this must not go unseen.
            telemetry.logger.exception("work beside the requests has ended")

    task = asyncio.create_task(reported())

    async def stop() -> None:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    stack.push_async_callback(stop)


def watch(edge: Edge) -> None:
    """Gauges that are read when somebody scrapes."""
    metrics, cache = edge.metrics, edge.cache
    metrics.watch("cache_bytes", "Bytes of the in-process cache.", lambda: cache.size_bytes)
    metrics.watch("cache_entries", "Entries of the in-process cache.", lambda: len(cache))
    metrics.watch("cache_evicted", "Entries evicted since the start.", lambda: cache.counts.evicted)
    metrics.watch("cache_not_admitted", "Entries not admitted since the start.", lambda: cache.counts.not_admitted)
    metrics.watch("cache_behind_bytes", "Bytes of lists kept for a roll-back.", lambda: cache.spare_bytes)
    metrics.watch(
        "cache_behind_given_up", "Lists not kept for a roll-back, as others took the room.",
        lambda: cache.counts.spares_given_up,
    )  # fmt: skip
    metrics.watch("calls_in_flight", "Calls that regions' nodes have not answered yet.", lambda: _out(edge.targets))
    hot_keys = edge.parts.filler.hot_keys
    metrics.watch("hot_keys", "Lists that take a large share of the answers.", lambda: len(hot_keys))
    metrics.watch(
        "hot_key_share", "Share of the answers that the hottest list takes, 0 to 1.", lambda: hot_keys.top_share
    )
    metrics.watch("ready_answers", "Answers that the hot path has ready.", lambda: len(edge.answers))
    metrics.watch("loop_lag_seconds", "How late this process gets to its work.", lambda: edge.parts.lag.lag_s)
    metrics.watch("targets_avoided", "Nodes of regions that are not asked at present.", lambda: _avoided(edge.targets))


def _avoided(targets: Targets) -> int:
    return sum(targets.is_open(target) for target in targets.all())


def _out(targets: Targets) -> int:
    return sum(targets.in_flight(target) for target in targets.all())
