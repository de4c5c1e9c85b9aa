"""The worker's loops and how they are put together. `__main__` only reads the command line."""

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack
from typing import Any

import msgspec
from aiohttp import web
from prometheus_client import Counter

from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import AtollError, UnavailableError
from infra.plumbing.grid.connect import connect_grid
from infra.plumbing.grid.port import Grid
from infra.plumbing.http.middleware import frame, operations_routes
from infra.plumbing.http.serving import serve
from infra.plumbing.telemetry import Telemetry, start_telemetry
from region.events.dead_letters import DeadLetters
from region.events.intake import AGE_MAX_MS
from region.events.opening import open_dead_letters, open_log, open_seals
from region.events.port import Log
from region.events.schema_check import check_event_schema
from region.events.streaming import Streaming
from region.events.waking import LOG_TOPIC
from region.keeping.rotating import rest_is_due, rotate_rest
from region.keeping.wiping import LOOK_S as WIPE_LOOK_S
from region.keeping.wiping import Wiper
from region.logs import rooms_logging_to
from region.settings import RegionSettings
from region.store.applying import COUNTS_LIFE_MS
from region.store.opening import open_store
from region.store.port import Store

POLL_MIN_S = 0.05
POLL_MAX_S = 0.25
"""Without a wake-up the log is looked at this often: the longest that a lost one can cost."""
RETRY_S = 0.5
RETENTION_INTERVAL_S = 60.0
SESSION_MARGIN_S = 600.0
"""A session that is over begins anew when it is heard of again (`region.store.applying`); its row goes this much
later, so that a worker that lags behind the log by less forgets nothing too early."""


class Worker:
    """The loops of one worker, over ports.

    Args:
        settings: of the node.
        streaming: applies the log.
        log: expired here.
        store: expired here.
        grid: wakes the worker.
        clock: for retention.
        telemetry: spans, counts and logs.
        dead_letters: expired here.
    """

    def __init__(
        self, *, settings: RegionSettings, streaming: Streaming, log: Log, store: Store, grid: Grid, clock: Clock,
        telemetry: Telemetry, dead_letters: DeadLetters | None = None,
    ) -> None:  # fmt: skip
        self._dead_letters = dead_letters
        self._settings = settings
        self._streaming = streaming
        self._log = log
        self._store = store
        self._grid = grid
        self._clock = clock
        self._telemetry = telemetry
        parts = (store, log) if dead_letters is None else (store, log, dead_letters)
        self._wiper = Wiper(epoch=log.erasures, parts=parts, tell=_nothing)
        self._wake = asyncio.Event()
        self._waiting_for: str | None = "the first look at the log"
        self._said: dict[str, str] = {}
        """Why each loop that puts off does so, as it was written down."""
        self._failures = Counter(
            "atoll_worker_failures", "Steps put off because a part did not answer.", ("loop",),
            registry=telemetry.registry,
        )  # fmt: skip
        self._expired = Counter(
            "atoll_worker_expired", "Records and rows forgotten because their time was over.", ("what",),
            registry=telemetry.registry,
        )  # fmt: skip

    def ready(self) -> str | None:
        """None while events flow, else what the worker waits for."""
        return self._waiting_for

    async def stream(self, stop: asyncio.Event) -> None:
        """Apply the log until `stop`; put off, never give up, while a part does not answer."""
        started = False
        pause_s = POLL_MIN_S
        while not stop.is_set():
            self._wake.clear()
            try:
                if not started:
                    await self._streaming.start()
                    started = True
                applied = await self._step()
                self._waiting_for = None
                self._goes_on("stream")
                pause_s = 0.0 if applied else min(POLL_MAX_S, max(POLL_MIN_S, 2 * pause_s))
            except UnavailableError as error:
                self._put_off("stream", error)
                self._waiting_for = type(error).__name__
                pause_s = RETRY_S
            if pause_s:
                await _first_of(pause_s, stop, self._wake)

    async def listen(self, stop: asyncio.Event) -> None:
        """Take wake-ups until `stop`. A reconnect is one too: something may have been missed."""
        listening = asyncio.create_task(self._take_wakes(self._grid.subscribe(LOG_TOPIC)))
        stopping = asyncio.create_task(stop.wait())
        done, _ = await asyncio.wait((listening, stopping), return_when=asyncio.FIRST_COMPLETED)
        for task in (listening, stopping):
            task.cancel()
        await asyncio.wait((listening, stopping))
        if listening in done:
            listening.result()

    async def retain(self, stop: asyncio.Event) -> None:
        """Forget what is past its life, now and then, until `stop`."""
        while not stop.is_set():
            try:
                await self.expire_once()
                self._goes_on("retain")
            except UnavailableError as error:
                self._put_off("retain", error)
            await _first_of(RETENTION_INTERVAL_S, stop)

    async def wipe(self, stop: asyncio.Event) -> None:
        """Let go of whom the region erased, in memory too, until `stop`."""
        while not stop.is_set():
            try:
                await self._wiper.look()
                self._goes_on("wipe")
            except (UnavailableError, OSError) as error:
                self._put_off("wipe", error)
            await _first_of(WIPE_LOOK_S, stop)

    async def rotate(self, stop: asyncio.Event) -> None:
        """Make the rest key anew when it is due and somebody was erased, until `stop`."""
        done: object = None
        while not stop.is_set():
            try:
                epoch = await self._log.erasures()
                if epoch != done and await asyncio.to_thread(rest_is_due, self._settings, now_ms=self._clock.now_ms()):
                    report = await rotate_rest(self._settings, clock=self._clock)
                    done = epoch
                    self._telemetry.logger.info("rest key rotated", extra={"fields": msgspec.to_builtins(report)})
                self._goes_on("rotate")
            except (AtollError, OSError) as error:
                self._put_off("rotate", error)
            await _first_of(RETENTION_INTERVAL_S, stop)

    async def expire_once(self) -> None:
        """Forget what is past its life."""
        now_ms = self._clock.now_ms()
        rows = await self._store.expire(
            sessions_before_ms=now_ms - round((self._settings.session_life_s + SESSION_MARGIN_S) * 1000),
            counts_before_ms=now_ms - COUNTS_LIFE_MS,
            users_before_ms=now_ms - round(self._settings.behaviour_life_s * 1000),
            # As long as a log, or a copy of it, may hold what was erased, and a phone tell of it.
            erasures_before_ms=now_ms - max(AGE_MAX_MS, round(self._settings.log_retention_s * 1000)),
        )
        records = await self._log.expire(before_ms=now_ms - round(self._settings.log_retention_s * 1000))
        if self._dead_letters is not None:
            before_ms = now_ms - round(self._settings.log_retention_s * 1000)
            self._expired.labels("dead letters").inc(await self._dead_letters.expire(before_ms=before_ms))
        self._expired.labels("rows").inc(rows)
        self._expired.labels("records").inc(records)

    async def _take_wakes(self, wakes: AsyncIterator[bytes | None]) -> None:
        async for _ in wakes:
            self._wake.set()

    async def _step(self) -> int:
        applied = await self._streaming.step()
        if applied:
            self._telemetry.logger.debug("applied", extra={"fields": {"events": applied}})
        return applied

    def _put_off(self, loop: str, error: Exception) -> None:
        """Count it, and write it down where it is news: a part that is away for a night must not fill the disk."""
        self._failures.labels(loop).inc()
        if self._said.get(loop) != str(error):
            self._said[loop] = str(error)
            self._telemetry.logger.warning("put off", extra={"fields": {"loop": loop, "reason": str(error)}})

    def _goes_on(self, loop: str) -> None:
        if self._said.pop(loop, None) is not None:
            self._telemetry.logger.info("goes on", extra={"fields": {"loop": loop}})


async def run_worker(settings: RegionSettings, stop: asyncio.Event, *, clock: Clock | None = None) -> None:
    """Build the worker of a node and run it until `stop`.

    Raises:
        SettingsError: the store, the log, the grid's address or the port cannot be used.
    """
    check_event_schema()
    clock = clock or SystemClock()
    async with AsyncExitStack() as stack:
        telemetry = start_telemetry(
            service="worker", region=settings.region, node=settings.node, settings=settings.telemetry
        )
        stack.callback(telemetry.close)
        stack.enter_context(rooms_logging_to(telemetry.logger))
        store = open_store(settings, clock=clock, registry=telemetry.registry)
        stack.push_async_callback(store.close)
        seals = open_seals(settings, clock=clock, registry=telemetry.registry)
        log = open_log(settings, registry=telemetry.registry, seals=seals)
        stack.push_async_callback(log.close)
        grid = connect_grid(settings.grid, clock=clock, registry=telemetry.registry)
        stack.push_async_callback(grid.close)
        dead_letters = open_dead_letters(settings, registry=telemetry.registry, seals=seals)
        stack.push_async_callback(dead_letters.close)
        streaming = Streaming(
            log=log, store=store, grid=grid, clock=clock, registry=telemetry.registry, dead_letters=dead_letters,
            telemetry=telemetry,
        )  # fmt: skip
        worker = Worker(
            settings=settings, streaming=streaming, log=log, store=store, grid=grid, clock=clock, telemetry=telemetry,
            dead_letters=dead_letters,
        )  # fmt: skip
        app = web.Application(middlewares=[frame(telemetry, clock)])
        app.add_routes(operations_routes(telemetry, worker.ready))
        await run_together(
            stop,
            worker.stream(stop),
            worker.retain(stop),
            worker.wipe(stop),
            worker.rotate(stop),
            worker.listen(stop),
            serve(
                app,
                host=settings.host,
                port=settings.worker_port,
                stop=stop,
                telemetry=telemetry,
                tls=settings.worker_tls,
            ),
        )


async def run_together(stop: asyncio.Event, *loops: Coroutine[Any, Any, None]) -> None:
    """Run `loops` until one ends or fails; then have the others end, and raise the first failure.

    A process with a dead loop must not go on looking alive.
    """
    tasks = [asyncio.create_task(loop) for loop in loops]
    await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    stop.set()
    outcomes = await asyncio.gather(*tasks, return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _nothing() -> None:
    """A worker has nobody to tell."""


async def _first_of(timeout_s: float, *events: asyncio.Event) -> None:
    """Wait until one of `events` is set, at most `timeout_s`."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
