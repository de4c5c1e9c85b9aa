"""The demo's report: one HTML file with everything in it, plots as SVG."""

import base64
import html
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from infra.demo.load import Sample

_STEP_COLOURS = {
    "fresh": "#2a9d8f", "grid": "#52b788", "home": "#4895ef", "stale": "#e9c46a", "replica": "#b5838d",
    "failover-vector": "#f4a261", "failover": "#e76f51", "release": "#9d0208", "": "#000000",
}  # fmt: skip

_STYLE = """
:root { color-scheme: light dark; }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { margin-bottom: 0; } .lead { color: #666; margin-top: .2rem; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0 2rem; }
th, td { text-align: left; padding: .4rem .6rem; border-bottom: 1px solid #8884; vertical-align: top; }
td.figure { font-variant-numeric: tabular-nums; }
th:nth-child(2) { width: 42%; } th:nth-child(4) { min-width: 7rem; }
.met { color: #2a9d8f; font-weight: 600; } .missed { color: #d00000; font-weight: 600; }
figure { margin: 1.5rem 0; background: #fff; border-radius: .5rem; padding: .5rem; }
figcaption { color: #444; font-size: .9rem; padding: .3rem .6rem; } img { width: 100%; }
"""


@dataclass(frozen=True, slots=True)
class Plot:
    """A picture and the sentence below it."""

    caption: str
    svg: bytes


@dataclass(frozen=True, slots=True)
class Line:
    """One row of the closing table: what was proved, its figure, the goal, and whether it was met (None: no goal)."""

    act: str
    proved: str
    figure: str
    goal: str = ""
    met: bool | None = None


def failover_plot(samples: Sequence[Sample], marks: Mapping[str, float]) -> Plot:
    """Latency of every request over time, coloured by the step of the ladder that answered."""
    figure = Figure(figsize=(9, 3.4))
    axes = figure.subplots()
    for step, colour in _STEP_COLOURS.items():
        chosen = [sample for sample in samples if sample.step == step]
        if chosen:
            label = step or "no answer"
            axes.scatter(
                [s.sent_s for s in chosen], [s.took_ms for s in chosen], s=5, c=colour, label=f"{label} ({len(chosen)})"
            )
    for name, at_s in marks.items():
        axes.axvline(at_s, color="#555", linewidth=0.8, linestyle="--")
        axes.annotate(name, (at_s, 0.98), xycoords=("data", "axes fraction"), rotation=90, va="top", fontsize=7)
    axes.set(xlabel="seconds", ylabel="milliseconds to answer", yscale="log")
    axes.legend(fontsize=7, ncols=4, loc="upper center", bbox_to_anchor=(0.5, 1.2), frameon=False)
    return Plot("A home region is lost under load and comes back. Each dot is one request.", _svg(figure))


def histogram_plot(values_ms: Sequence[float], caption: str) -> Plot:
    """Distribution of a duration with its median and 99th percentile."""
    figure = Figure(figsize=(9, 2.6))
    axes = figure.subplots()
    axes.hist(values_ms, bins=40, color="#4895ef")
    for share in (50, 99):
        at_ms = float(np.percentile(values_ms, share))
        axes.axvline(at_ms, color="#e76f51", linewidth=1)
        axes.annotate(f"p{share} {at_ms:.0f} ms", (at_ms, 0.9), xycoords=("data", "axes fraction"), fontsize=8)
    axes.set(xlabel="milliseconds", ylabel="tries")
    return Plot(caption, _svg(figure))


def bars_plot(values: Mapping[str, float], caption: str, unit: str) -> Plot:
    """Horizontal bars, in the given order."""
    figure = Figure(figsize=(9, 0.6 + 0.32 * len(values)))
    axes = figure.subplots()
    names = list(values)[::-1]
    bars = axes.barh(names, [values[name] for name in names], color="#2a9d8f")
    axes.bar_label(bars, fmt="%.3g", fontsize=8, padding=3)
    axes.set(xlabel=unit)
    return Plot(caption, _svg(figure))


def render(title: str, lead: str, lines: Sequence[Line], plots: Sequence[Plot], machine: Mapping[str, Any]) -> str:
    """The whole page."""
    rows = "".join(_row(line) for line in lines)
    figures = "".join(
        f'<figure><img alt="{html.escape(plot.caption)}" src="data:image/svg+xml;base64,'
        f'{base64.b64encode(plot.svg).decode()}"><figcaption>{html.escape(plot.caption)}</figcaption></figure>'
        for plot in plots
    )
    facts = ", ".join(f"{html.escape(str(key))} {html.escape(str(value))}" for key, value in machine.items())
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{html.escape(title)}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head><body>'
        f'<h1>{html.escape(title)}</h1><p class="lead">{html.escape(lead)}</p>'
        "<table><thead><tr><th>Act</th><th>What is proved</th><th>Figure</th><th>Goal</th></tr></thead>"
        f"<tbody>{rows}</tbody></table>{figures}<p class='lead'>Measured on: {facts}</p></body></html>\n"
    )


def _row(line: Line) -> str:
    shown = {True: "met", False: "missed", None: ""}[line.met]
    return (
        f'<tr><td>{html.escape(line.act)}</td><td>{html.escape(line.proved)}</td><td class="figure {shown}">'
        f"{html.escape(line.figure)}</td><td>{html.escape(line.goal)}</td></tr>"
    )


def _svg(figure: Figure) -> bytes:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", bbox_inches="tight")
    return buffer.getvalue()
