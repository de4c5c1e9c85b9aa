"""The evaluation as one HTML page with its plots inside: nothing is fetched, nothing is next to it."""

import base64
import html
import io
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from central.evaluation.results import Evaluation, Spread
from infra.plumbing.files import write_atomically

COLUMNS: Final = (
    "hr10", "ndcg10", "mrr10", "map10", "precision10", "hr20", "ndcg20", "hr50", "coverage10", "novelty10",
    "diversity10",
)  # fmt: skip
_STYLE: Final = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#222}"
    "table{border-collapse:collapse;margin:1rem 0}td,th{padding:.25rem .6rem;border-bottom:1px solid #ddd;text-align:"
    "right}td:first-child,th:first-child{text-align:left}img{max-width:100%}p.bad{color:#a00;font-weight:600}"
)
_MODEL, _BASELINE = "#2a6f97", "#b0b7bf"


def write_report(evaluation: Evaluation, path: Path) -> None:
    """Writes the page, whole or not at all."""
    write_atomically(path, render(evaluation).encode())


def render(evaluation: Evaluation) -> str:
    """The page as text."""
    seen = evaluation
    parts = [
        f"<h1>Evaluation on {html.escape(seen.dataset)}</h1>",
        f"<p>{seen.users:,} users, {seen.items:,} items. {html.escape(seen.protocol)}. Ties: {html.escape(seen.ties)}. "
        f"Trained for {seen.train_s:.0f} s, seed {seen.seed}"
        + ("" if seen.context else ", the tower reads the items only")
        + ".</p>",
        _leaks(seen),
        _figure(_stages_plot, seen),
        _table({**seen.stage, **{f"baseline {name}": row for name, row in seen.baselines.items()}}),
        *(f"<h2>By {name}</h2>{_figure(_slice_plot(rows), seen)}" for name, rows in seen.slices.items() if rows),
        "<h2>How the training went</h2>",
        _figure(_curve_plot, seen),
        _calibration(seen),
        _variants(seen),
        _seeds(seen),
    ]
    title = f"Evaluation of {html.escape(seen.dataset)}"
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{title}</title><style>{_STYLE}</style>'
        + "".join(parts)
        + "</html>"
    )


def _leaks(seen: Evaluation) -> str:
    if seen.leaks is None:
        return ""
    leaks = seen.leaks
    if not leaks.passed:
        what = ", ".join(leaks.tables_moved) or f"{leaks.learned_inputs} interactions"
        return f'<p class="bad">The leak check FAILED: {html.escape(what)} know the test. Believe no figure below.</p>'
    return (
        "<p>Leak check passed: no test or validation interaction is in a training window, and no table moves when "
        f"every test interaction is replaced. {leaks.taken_before:.1%} of the test items were taken before (counted as "
        f"missed); {leaks.later_share:.0%} of what is known happened after the median test interaction.</p>"
    )


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    head = "".join(f"<th>{column}</th>" for column in ("", *COLUMNS))
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>"
        + "".join(f"<td>{figures[column]:.4f}</td>" if column in figures else "<td></td>" for column in COLUMNS)
        + "</tr>"
        for name, figures in rows.items()
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _calibration(seen: Evaluation) -> str:
    if not seen.calibration:
        return ""
    said = ", ".join(f"{html.escape(head)} {error:.2f}" for head, error in seen.calibration.items())
    return (
        f"<h2>Calibration of the ranker</h2><p>Error of the probabilities over the candidates, relative to how often "
        f"the event comes at all (0: what is said is what happens): {said}.</p>"
    )


def _variants(seen: Evaluation) -> str:
    return f"<h2>Trained otherwise (retrieval)</h2>{_table(seen.variants)}" if seen.variants else ""


def _seeds(seen: Evaluation) -> str:
    """Means over the seeds, by stage, with both kinds of interval."""
    if seen.seeds is None:
        return ""
    named = {**seen.seeds.stage, **{f"trained with {kind}": row for kind, row in seen.seeds.variants.items()}}
    body = "".join(
        f"<tr><td>{html.escape(name)}</td>" + "".join(_spread(row.get(key)) for key in ("hr10", "ndcg10")) + "</tr>"
        for name, row in named.items()
    )
    head = "".join(f"<th>{key}</th><th>over seeds</th><th>over users</th>" for key in ("hr10", "ndcg10"))
    numbers = ", ".join(str(seed) for seed in seen.seeds.seeds)
    return f"<h2>Seeds {numbers}: means and 95 % intervals</h2><table><tr><th></th>{head}</tr>{body}</table>"


def _spread(one: Spread | None) -> str:
    if one is None:
        return "<td></td>" * 3
    users = f"{one.users[0]:.4f} to {one.users[1]:.4f}" if one.users else ""
    return f"<td>{one.mean:.4f}</td><td>{one.low:.4f} to {one.high:.4f}</td><td>{users}</td>"


def _figure(draw: Callable[[Any, Evaluation], None], seen: Evaluation) -> str:
    from matplotlib.figure import Figure  # noqa: PLC0415 (half a second; only a report needs it)

    figure = Figure(figsize=(8.0, 3.4), layout="constrained")
    draw(figure.subplots(), seen)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    return f'<img alt="plot" src="data:image/png;base64,{base64.b64encode(buffer.getvalue()).decode()}">'


def _stages_plot(axes: Any, seen: Evaluation) -> None:
    """NDCG@10 of every stage and baseline, with its interval over users."""
    rows = {**seen.baselines, **{name: row for name, row in seen.stage.items() if not name.endswith("_same_users")}}
    names = sorted(rows, key=lambda name: rows[name]["ndcg10"])
    values = [rows[name]["ndcg10"] for name in names]
    axes.barh(names, values, color=[_BASELINE if name in seen.baselines else _MODEL for name in names])
    for line, name in enumerate(names):
        low, high = seen.intervals.get(name, {}).get("ndcg10", (values[line], values[line]))
        axes.plot([low, high], [line, line], color="#222", linewidth=1.2)
    axes.set_xlabel("NDCG@10, with 95 % intervals over users")


def _slice_plot(rows: Mapping[str, Mapping[str, float]]) -> Callable[[Any, Evaluation], None]:
    def draw(axes: Any, _seen: Evaluation) -> None:
        names = [f"{name}\n{figures['users']:.0f} users" for name, figures in rows.items()]
        axes.bar(names, [figures["ndcg10"] for figures in rows.values()], color=_MODEL)
        axes.set_ylabel("NDCG@10, retrieval")

    return draw


def _curve_plot(axes: Any, seen: Evaluation) -> None:
    axes.plot(range(1, len(seen.curve) + 1), seen.curve, color=_MODEL, marker="o", markersize=3)
    axes.set_xlabel("epoch")
    axes.set_ylabel("NDCG@10, validation")
