"""The order of the acts, what holds them together, and the closing table."""

import asyncio
import contextlib
import os
import platform
import shutil
import signal
from collections.abc import Coroutine, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from infra.demo import central_acts, federated_acts, release_acts, residency_acts, serving_acts, trace_acts
from infra.demo.callers import pick_callers, read_history, read_users
from infra.demo.memory import PeakMemory
from infra.demo.play import Play
from infra.demo.report import render
from infra.local.configuration import default_configuration, with_absolute_directories
from infra.local.tiers import source_root
from infra.local.world import World, start_world, stop_world
from infra.plumbing.clock import Clock
from infra.plumbing.errors import ConflictError, InvalidInputError
from infra.plumbing.files import write_atomically
from infra.plumbing.progress import Progress

CALLERS_PER_REGION = 20
MARK = "atoll-demo"
"""A file that says a folder is the demo's own and may be made anew."""
MEMORY_GOAL_MB, SECONDS_GOAL = 5 * 1024, 240.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """What `./atoll demo` prints, writes and returns."""

    figures: dict[str, Any]
    text: str
    passed: bool


def tell(
    *, work: Path, source: str, minutes: float | None, tries: int, keep: bool, clock: Clock, progress: Progress,
    tls: bool = False,
) -> Outcome:  # fmt: skip
    """Play every act in a fresh `work` folder. Whatever happens, Ctrl-C included, nothing is left running.

    Raises:
        AtollError: an act could not be played; says which and why.
    """
    if tries < 2:
        raise InvalidInputError("--tries is below 2.", fix="Percentiles need more than one event.")
    work = work.absolute()
    # Arguments are taken from where the caller stands; the commands of the acts run from the source root.
    source = str(Path(source).absolute()) if Path(source).exists() else source
    play = Play(root=source_root(), work=work, clock=clock, progress=progress, tls=tls)
    _make_anew(work)
    try:
        with PeakMemory(clock=clock) as memory:
            asyncio.run(_interruptible(_acts(play, source, minutes, tries), world_state=work / "world"))
        return _close(play, memory.peak_mb, keep=keep)
    except BaseException:
        stop_world(work / "world")
        raise
    finally:
        if not keep:
            stop_world(work / "world")


async def _acts(play: Play, source: str, minutes: float | None, tries: int) -> None:
    await central_acts.data(play, source)
    await central_acts.train(play, minutes)
    bundle = await central_acts.release(play)
    await central_acts.evaluate(play, bundle)
    with play.phase("world"):
        play.world = await asyncio.to_thread(_start, play)
    await release_acts.verify(play, bundle.name)
    world = play.running_world
    users, history = read_users(play.dataset), read_history(play.dataset)
    keys = {region: world.keys(region) for region in world.configuration.region_names}
    callers = pick_callers(users, keys, per_region=CALLERS_PER_REGION, clock=play.clock)
    items = list(dict.fromkeys(history[caller.user_id][-1] for caller in callers))
    await serving_acts.calls(play, callers, items[0])
    await trace_acts.trace(play, callers[-1])
    await serving_acts.events(play, callers, tries=tries)
    vectors = await federated_acts.portable_vectors(play, bundle, callers[::2])
    await serving_acts.failover(play, callers, items, vectors, lost=world.configuration.region_names[0])
    candidate = await federated_acts.rounds(play, bundle)
    if candidate is not None:
        await release_acts.tamper(play, world.configuration.region_names[-1], candidate)
        await release_acts.promote_and_roll_back(
            play, world.configuration.region_names[-1], candidate, callers, items[0]
        )
    await residency_acts.scan_captures(play, users)


def _start(play: Play) -> World:
    configuration = with_absolute_directories(default_configuration(), play.work)
    return start_world(
        msgspec.structs.replace(configuration, tls=play.tls), play.work / "world",
        repository=play.repository, dataset=play.dataset, hold_out_last=True, progress=play.progress,
    )  # fmt: skip


def _close(play: Play, peak_mb: float, *, keep: bool) -> Outcome:
    after_installs_s = sum(play.phases_s.values())
    play.figures |= {"phases_s": play.phases_s, "seconds": round(after_installs_s, 1), "peak_rss_mb": round(peak_mb)}
    play.report_resources(after_installs_s, SECONDS_GOAL, peak_mb, MEMORY_GOAL_MB)
    machine = {"cores": os.cpu_count(), "system": platform.platform(), "python": platform.python_version()}
    page = render(
        "Atoll: the demo", "Three regions, six edges, one central, on one machine.", play.lines, play.plots, machine
    )
    report = play.work / "report.html"
    write_atomically(report, page.encode())
    missed = [line for line in play.lines if line.met is False]
    text = [play.table(), f"report: {report}"]
    if keep:
        play.running_world.detach()
        text += ["", *play.calls_to_try()]
    return Outcome(figures=play.figures, text="\n".join(text), passed=not missed)


def _make_anew(work: Path) -> None:
    """Empty the demo's own folder; refuse to touch anything else."""
    if work.exists() and any(work.iterdir()) and not (work / MARK).exists():
        raise ConflictError(f"{work} holds something that is not the demo's.", fix="Name another folder with --work.")
    stop_world(work / "world")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    (work / MARK).touch()


async def _interruptible(acts: Coroutine[Any, Any, None], *, world_state: Path) -> None:
    """Turn SIGTERM and SIGINT into a cancellation of the acts, so that every `finally` runs.

    The world is ended at once: a thread that waits for it to come up cannot be cancelled, but gives up when it is gone.
    """
    task = asyncio.ensure_future(acts)
    with _signals(task):
        try:
            await task
        except asyncio.CancelledError:
            await asyncio.to_thread(stop_world, world_state)
            raise KeyboardInterrupt from None


@contextlib.contextmanager
def _signals(task: "asyncio.Future[None]") -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, task.cancel)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
