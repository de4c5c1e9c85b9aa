"""The resident process that owns a world: starts its processes, watches them, kills and heals on command.

Children are tied to it by the kernel's parent-death signal: however it ends, nothing of the world outlives it.
Everything happens on one event loop; a command changes the children's states, the loop's next turn acts on them.
"""

import asyncio
import contextlib
import fcntl
import os
import signal
import time
from pathlib import Path
from typing import Any

import msgspec

from infra.local.bounding import cut_oversized
from infra.local.children import ChildNotStartedError, restore_priority, signal_group, start_child
from infra.local.configuration import CENTRAL
from infra.local.control import Request, serve_control, text_field
from infra.local.layout import Layout
from infra.local.memory import MemoryMeter, descendants
from infra.local.probing import probe
from infra.local.records import (
    KILLABLE,
    Part,
    ProcessState,
    WorldRecord,
    WorldStatus,
)
from infra.local.securing import SUPERVISOR, Securing
from infra.local.supervision import Child
from infra.plumbing.clock import Clock
from infra.plumbing.errors import ConflictError, InvalidInputError
from infra.plumbing.http.tls import client_context

TICK_S = 0.1
PROBE_UNREADY_S = 0.2
PROBE_READY_S = 2.0
PROBE_TIMEOUT_S = 1.5
PROBES_AT_ONCE_MAX = 8
MEMORY_EVERY_S = 1.0
FILES_EVERY_S = 10.0
TERM_PATIENCE_S = 5.0
DRAIN_PATIENCE_S = 8.0
KILL_PATIENCE_S = 5.0


class Supervisor:
    """Owns the processes of one world. Build it, then `run` it once.

    Args:
        record: what to run.
        layout: where sockets and files lie.
        clock: for restarts, probes and measurements.
    """

    def __init__(self, *, record: WorldRecord, layout: Layout, clock: Clock) -> None:
        self._record = record
        self._layout = layout
        self._clock = clock
        now_s = clock.monotonic_s()
        self._children = [Child(plan=plan, policy=record.restart, waiting_since_s=now_s) for plan in record.processes]
        self._securing = Securing(layout.tls, record.configuration.tls)
        tls = self._securing.connect(SUPERVISOR)
        self._tls = None if tls is None else client_context(tls, clock=clock)
        self._back_at_once = len(os.sched_getaffinity(0))
        self._peak_mb = self._own_mb = 0.0
        self._meter = MemoryMeter()
        self._files_cut = 0
        self._memory_at_s = now_s
        self._files_at_s = now_s + FILES_EVERY_S
        self._wake = asyncio.Event()
        self._probes = asyncio.Semaphore(PROBES_AT_ONCE_MAX)
        self._probing: set[asyncio.Task[None]] = set()

    async def run(self, stop: asyncio.Event) -> None:
        """Run until `stop` is set or a client says `down`; returns when no child is left."""
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGCHLD, self._wake.set)
        self._stop = stop
        server = await serve_control(self._layout.control, self._command)
        try:
            while not stop.is_set():
                self._turn()
                await self._pause(TICK_S)
        finally:
            server.close()
            self._layout.control.unlink(missing_ok=True)
            await self._end_all()
            loop.remove_signal_handler(signal.SIGCHLD)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        self._wake.clear()

    def _turn(self) -> None:
        now_s = self._clock.monotonic_s()
        self._reap(now_s)
        for child in self._children:
            if child.is_due(now_s, self._children, back_at_once=self._back_at_once):
                self._start(child, now_s)
            if child.running and now_s >= child.probe_at_s:
                self._probe(child, now_s)
            if child.process and child.is_eased_enough(now_s):
                child.eased_until_s = None
                restore_priority(descendants([child.process.pid])[child.process.pid])
        if now_s >= self._memory_at_s:
            self._memory_at_s = now_s + MEMORY_EVERY_S
            self._measure()
        if now_s >= self._files_at_s:
            self._files_at_s = now_s + FILES_EVERY_S
            if self._tls is not None:
                self._tls.refresh()
            self._files_cut += cut_oversized(
                (self._layout.logs, self._layout.spans), bytes_max=self._record.output_bytes_max
            )

    def _start(self, child: Child, now_s: float) -> None:
        try:
            process = start_child(
                child.plan.command,
                working_directory=Path(self._record.working_directory),
                mark=self._layout.mark,
                output=self._layout.output(child.plan.name),
                eased=child.eased,
                additions=child.plan.environment,
            )
        except ChildNotStartedError as error:
            child.failed(error.message, now_s)
        else:
            child.started(process, now_s, eased_s=self._record.eased_s)

    def _reap(self, now_s: float) -> None:
        for child in self._children:
            process = child.process
            if process is None:
                continue
            # Look without reaping: until it is reaped its group's number cannot belong to anybody else.
            if os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
                continue
            signal_group(process.pid, signal.SIGKILL)
            child.ended(process.wait(), now_s)

    def _probe(self, child: Child, now_s: float) -> None:
        # Pushed into the future so that no second probe starts; the one in flight sets the real moment.
        child.probe_at_s = now_s + 2 * PROBE_TIMEOUT_S
        task = asyncio.create_task(self._probe_once(child))
        self._probing.add(task)
        task.add_done_callback(self._probing.discard)

    async def _probe_once(self, child: Child) -> None:
        process = child.process
        async with self._probes:
            tls = None if self._tls is None else self._tls.context
            finding = await probe(child.plan.probe, child.plan.address, timeout_s=PROBE_TIMEOUT_S, tls=tls)
        if child.process is process:
            child.found(finding)
            pause_s = PROBE_READY_S if finding.ready else PROBE_UNREADY_S
            child.probe_at_s = self._clock.monotonic_s() + pause_s

    def _measure(self) -> None:
        groups = descendants([child.process.pid for child in self._children if child.process])
        for child in self._children:
            if child.process:
                child.pids = groups[child.process.pid]
                child.rss_mb = self._meter.measure_mb(child.pids)
        self._own_mb = self._meter.measure_mb([os.getpid()])
        self._meter.forget_others([os.getpid(), *(pid for child in self._children for pid in child.pids)])
        self._peak_mb = max(self._peak_mb, self._total_mb())

    def _total_mb(self) -> float:
        return self._own_mb + sum(child.rss_mb for child in self._children)

    async def _command(self, request: Request) -> Any:
        command = text_field(request, "command")
        if command == "status":
            return msgspec.to_builtins(self.status())
        if command == "down":
            self._stop.set()
            self._wake.set()
            return None
        if command == "kill":
            return await self._kill(self._selected(request))
        if command == "restart":
            return await self._restart(text_field(request, "process"))
        if command == "heal":
            return self._heal(self._selected(request))
        raise InvalidInputError(f"there is no command {command!r}.", fix="Use status, kill, restart, heal or down.")

    def _selected(self, request: Request) -> list[Child]:
        region, part = text_field(request, "region"), text_field(request, "part", "all")
        regions = sorted({child.plan.region for child in self._children} - {""})
        if region not in (*regions, CENTRAL):
            names = ", ".join((*regions, CENTRAL))
            raise InvalidInputError(f"there is no region {region!r}.", fix=f"Name one of {names}.")
        if part not in KILLABLE:
            raise InvalidInputError(f"there is no part {part!r}.", fix=f"Name one of {', '.join(KILLABLE)}.")
        parts = KILLABLE[part]
        if region == CENTRAL and region not in regions:
            region, parts = "", parts if part != "all" else self._shared_parts(request)
        return [child for child in self._children if child.plan.region == region and child.plan.part in parts]

    def _shared_parts(self, request: Request) -> frozenset[Part]:
        """Whatever of central was given up may be healed; the rest of the world hangs on all but the SuperLink."""
        return frozenset(Part) if text_field(request, "command") == "heal" else KILLABLE["superlink"]

    async def _kill(self, children: list[Child]) -> list[str]:
        # All signals first, then the waiting: a region goes dark at one moment.
        for child in children:
            child.killed()
            if child.process:
                signal_group(child.process.pid, signal.SIGKILL)
        if not await self._gone(children, KILL_PATIENCE_S):
            raise ConflictError("some processes did not end at SIGKILL.", fix="Look at their state with ps.")
        return [child.plan.name for child in children]

    async def _restart(self, name: str) -> list[str]:
        """Let one process end as it likes, and start it again; returns when it has ended."""
        child = next((child for child in self._children if child.plan.name == name), None)
        if child is None:
            raise InvalidInputError(f"there is no process {name!r}.", fix="See `./atoll world status`.")
        process = child.process
        if process is None or not child.drain():
            return []
        # To the process alone: what it started (a region's retrieval) it ends itself, after its last answer.
        process.send_signal(signal.SIGTERM)
        if not await self._gone([child], DRAIN_PATIENCE_S):
            signal_group(process.pid, signal.SIGKILL)
            await self._gone([child], KILL_PATIENCE_S)
        self._wake.set()
        return [name]

    def _heal(self, children: list[Child]) -> list[str]:
        now_s = self._clock.monotonic_s()
        healed = [child.plan.name for child in children if child.heal(now_s)]
        self._wake.set()
        return healed

    async def _gone(self, children: list[Child], patience_s: float) -> bool:
        """Whether the processes that `children` have now have ended; one may have another by then."""
        end_s = self._clock.monotonic_s() + patience_s
        ending = [(child, child.process) for child in children if child.process]
        while ending:
            self._reap(now_s := self._clock.monotonic_s())
            ending = [(child, process) for child, process in ending if child.process is process]
            if ending and now_s >= end_s:
                return False
            if ending:
                await self._pause(0.02)
        return True

    async def _end_all(self) -> None:
        for task in self._probing:
            task.cancel()
        for number, patience_s in ((signal.SIGTERM, TERM_PATIENCE_S), (signal.SIGKILL, KILL_PATIENCE_S)):
            for child in self._children:
                child.killed()
                if child.process:
                    signal_group(child.process.pid, number)
            if await self._gone(self._children, patience_s):
                return

    def status(self) -> WorldStatus:
        """The world now."""
        processes = tuple(child.status() for child in self._children)
        wanted = [process for process in processes if process.state is not ProcessState.KILLED]
        ready = all(process.state is ProcessState.READY for process in wanted)
        regions, described = self._record.configuration.region_names, self._record.configuration.regions
        return WorldStatus(
            state_directory=str(self._layout.state),
            supervisor_pid=os.getpid(),
            ready=ready,
            live=all(process.state in (ProcessState.READY, ProcessState.LIVE) for process in wanted),
            processes=processes,
            balancer_url=self._url(Part.BALANCER),
            repository_url=self._url(Part.REPOSITORY),
            region_urls={region: self._url(Part.API, region) for region in regions},
            edge_urls={region: self._urls(Part.EDGE, region) for region in regions},
            gateway_urls={region: self._url(Part.GATEWAY, region) for region in regions},
            export_policies={region.name: region.export_policy for region in described},
            authority=str(self._securing.authority) if self._securing.enabled else "",
            ports=self._record.ports,
            rss_mb=round(self._total_mb(), 1),
            peak_rss_mb=round(self._peak_mb, 1),
            restarts=sum(process.restarts for process in processes),
            files_cut=self._files_cut,
        )

    def _urls(self, part: Part, region: str = "") -> tuple[str, ...]:
        return tuple(
            f"{self._securing.scheme}://{plan.address}"
            for plan in self._record.processes
            if plan.part is part and plan.region == region
        )

    def _url(self, part: Part, region: str = "") -> str:
        return next(iter(self._urls(part, region)), "")


def take_lock(path: Path) -> int:
    """Hold `path` until this process ends; returns the descriptor.

    Raises:
        ConflictError: another process holds it.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        os.close(descriptor)
        raise ConflictError(
            f"the world at {path.parent} runs already.", fix="See `./atoll world status`; end it with `world down`."
        ) from error
    os.ftruncate(descriptor, 0)
    os.write(descriptor, str(os.getpid()).encode())
    return descriptor


def is_locked(path: Path) -> bool:
    """Whether a living process holds `path`."""
    try:
        descriptor = os.open(path, os.O_RDWR)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def watch_owner(descriptor: int, stop: asyncio.Event) -> None:
    """Set `stop` when the other end of a pipe is closed without a word: the client that started us is gone.

    A client that leaves us running on purpose writes `detach` first.
    """
    loop = asyncio.get_running_loop()

    def readable() -> None:
        loop.remove_reader(descriptor)
        if not os.read(descriptor, 64):
            stop.set()

    loop.add_reader(descriptor, readable)


def read_record(layout: Layout) -> WorldRecord:
    """The record that `world up` wrote.

    Raises:
        InvalidInputError: there is none, or it is from another version.
    """
    try:
        return msgspec.json.decode(layout.world.read_bytes(), type=WorldRecord)
    except FileNotFoundError as error:
        raise InvalidInputError(
            f"there is no world at {layout.state}.", fix="Start one: `./atoll world up`."
        ) from error
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidInputError(
            f"the world at {layout.state} cannot be used: {error}.", fix="Make it anew with `./atoll world up`."
        ) from error


def wait_unlocked(path: Path, *, timeout_s: float, clock: Clock) -> bool:
    """Wait until nobody holds `path`; False when the time is over."""
    end_s = clock.monotonic_s() + timeout_s
    while is_locked(path):
        if clock.monotonic_s() >= end_s:
            return False
        time.sleep(0.02)
    return True
