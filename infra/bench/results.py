"""The one shape that every measurement prints, and how runs become figures."""

import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

import msgspec

RUNS_MIN = 3


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """A goal and what was seen. `figure` is None where it could not be measured; such a bar is not met."""

    bar: str
    figure: float | None
    goal: float
    unit: str
    met: bool


class Measured(msgspec.Struct, frozen=True, kw_only=True):
    """What a suite found: the figures, the bars that they are held to, and each peer's own figures of the same run."""

    figures: dict[str, float]
    bars: tuple[Bar, ...] = ()
    peers: dict[str, dict[str, float]] = {}
    notes: tuple[str, ...] = ()
    """What a reader must know to read the figures: what was left out, what differs from the bar's words."""


class BenchResult(Measured, frozen=True, kw_only=True):
    """`Measured`, with what ran it."""

    name: str
    machine: dict[str, str | int | float]
    runs: int


def at_most(bar: str, figure: float | None, goal: float, *, unit: str) -> Bar:
    """A bar that is met by `figure <= goal`."""
    return Bar(bar=bar, figure=figure, goal=goal, unit=unit, met=figure is not None and figure <= goal)


def at_least(bar: str, figure: float | None, goal: float, *, unit: str) -> Bar:
    """A bar that is met by `figure >= goal`."""
    return Bar(bar=bar, figure=figure, goal=goal, unit=unit, met=figure is not None and figure >= goal)


def medians(runs: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """The median of every key over `runs`; a key must be in all of them.

    A ratio against a peer belongs into the run's own mapping (paired), never computed from two medians.
    """
    return {key: statistics.median(run[key] for run in runs) for key in (runs[0] if runs else {})}


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least `share` (0 to 1) of `values` do not exceed; NaN of nothing."""
    if not values:
        return float("nan")
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -int(-share * len(ordered) // 1) - 1))]


def machine() -> dict[str, str | int | float]:
    """What the figures were measured on."""
    return {
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load_1_min": round(os.getloadavg()[0], 2),
    }


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "")


def render(result: BenchResult) -> str:
    """`result` for people: figures, then bars, then peers."""
    lines = [f"{result.name}: {result.runs} runs on {result.machine.get('cores')} cores"]
    lines += [f"  {key:<40} {value:,.4g}" for key, value in result.figures.items()]
    lines += [f"  {_verdict(bar)} {bar.bar}: {_figure(bar)} (goal {bar.goal:g} {bar.unit})" for bar in result.bars]
    for peer, figures in result.peers.items():
        lines.append(f"  {peer}: " + ", ".join(f"{key} {value:,.4g}" for key, value in figures.items()))
    lines += [f"  note: {note}" for note in result.notes]
    return "\n".join(lines)


def _verdict(bar: Bar) -> Literal["met   ", "MISSED"]:
    return "met   " if bar.met else "MISSED"


def _figure(bar: Bar) -> str:
    return "not measured" if bar.figure is None else f"{bar.figure:.4g}"
