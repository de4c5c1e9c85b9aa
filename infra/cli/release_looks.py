"""`atoll release inspect|diff`: what is in a release, and what changes from one to the next. Runs in central's tier."""

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from infra.cli.output import emit, progress_bar, table
from infra.cli.release_keys import leaf_repository
from infra.plumbing.errors import InvalidInputError

if TYPE_CHECKING:
    from central.release.comparing import Comparison, Lists

PEOPLE_SHOWN = 3


def register_looks(verbs: Any) -> None:
    """`inspect` and `diff`."""
    inspect = leaf_repository(
        verbs, "inspect", _inspect, "show one release: figures with intervals, gates, parts, files",
        "./atoll release inspect ID",
    )  # fmt: skip
    inspect.add_argument("release")
    diff = leaf_repository(
        verbs, "diff", _diff,
        "show what changes between two releases: figures, vocabulary, drift of the vectors, lists of made-up people",
        "./atoll release diff OLD NEW --people 50",
    )  # fmt: skip
    diff.add_argument("before")
    diff.add_argument("after")
    diff.add_argument(
        "--people", type=int, default=50, help="made-up histories that get lists from both (default 50; 0: none)"
    )
    diff.add_argument("--seed", type=int, default=0, help="of the made-up histories and samples")


def _place(arguments: argparse.Namespace) -> dict[str, Path]:
    return {"repository": arguments.repository, "keys": arguments.keys}


def _inspect(arguments: argparse.Namespace) -> None:
    from central.release.contents import ContentError
    from central.release.publish import inspect_release, release_contents

    found = inspect_release(**_place(arguments), release=arguments.release)
    rows = [
        {"file": name, "bytes": entry.length, "sha256": entry.sha256[:16]}
        for name, entry in sorted(found.manifest.files.items())
    ]
    gates = ", ".join(f"{name} {'passed' if passed else 'FAILED'}" for name, passed in found.manifest.gates.items())
    evaluation = None
    try:
        evaluation = release_contents(**_place(arguments), release=arguments.release).evaluation
        stages: list[dict[str, Any]] = [
            {"stage": stage, "hr10": figures.get("hr10"), "ndcg10": figures.get("ndcg10"),
             "95 % of ndcg10": _interval(evaluation.intervals.get(stage, {}).get("ndcg10"))}
            for stage, figures in {**evaluation.stage, **evaluation.baselines}.items()
        ]  # fmt: skip
        figures = table(stages)
    except ContentError as error:
        figures = error.message
    sizes = ", ".join(f"{part} {size:,}" for part, size in found.sizes.items())
    text = (
        f"{arguments.release}: {gates}\n{figures}\nbytes: {sizes}\ncontent {found.content_sha256}: the same data, code "
        f"and seed on one machine give the same; the release's name also covers the moment of the build\n{table(rows)}"
    )
    emit(arguments, {**msgspec.to_builtins(found), "evaluation": evaluation}, text)


def _diff(arguments: argparse.Namespace) -> None:
    from central.release.comparing import PEOPLE_MAX, compare
    from central.release.publish import diff_manifests, release_contents

    if not 0 <= arguments.people <= PEOPLE_MAX:
        raise InvalidInputError(f"--people must lie between 0 and {PEOPLE_MAX}.", fix="50 show most of it.")
    if arguments.seed < 0:
        raise InvalidInputError("--seed must be 0 or more.", fix="Leave it out.")
    before, after = (
        release_contents(**_place(arguments), release=one) for one in (arguments.before, arguments.after)
    )  # fmt: skip
    files = diff_manifests(before.manifest, after.manifest, before=arguments.before, after=arguments.after)
    with progress_bar() as progress:
        compared = compare(before, after, people=arguments.people, seed=arguments.seed, progress=progress)
    same = before.manifest.content_sha256 == after.manifest.content_sha256
    text = "\n".join(
        [
            *_said(compared),
            f"changed files: {', '.join(files.changed) or 'nothing'}",
            f"a region that has {arguments.before} fetches {files.bytes_new:,} bytes, less what deltas save",
            *(["both do the same: only the reports and the moment of the build differ"] if same else []),
        ]
    )
    emit(arguments, {**msgspec.to_builtins(files), **msgspec.to_builtins(compared), "same_content": same}, text)


def _said(compared: "Comparison") -> list[str]:
    metrics = [
        {"stage": one.stage, "metric": one.name, "before": one.before, "95 %": _interval(one.before_interval),
         "after": one.after, "95 % ": _interval(one.after_interval), "says": one.says}
        for one in compared.metrics
    ]  # fmt: skip
    sizes = [{"part": part, "bytes before": old, "after": new} for part, (old, new) in compared.sizes.items()]
    lines = [table(metrics), table(sizes)]
    if (words := compared.vocabulary) is not None:
        lines.append(
            f"items: {words.items_before:,} -> {words.items_after:,}, {words.added:,} added, "
            f"{words.removed:,} removed; categories: {len(words.categories_added)} added, "
            f"{len(words.categories_removed)} removed"
        )
    if (drift := compared.drift) is not None:
        quantiles = ", ".join(f"{name} {value:.3f}" for name, value in drift.cosine.items())
        lines.append(
            f"vectors of {drift.items:,} items: cosine after the best rotation {quantiles}; "
            f"{drift.neighbours_overlap:.0%} of the 20 nearest are the same"
        )
    if compared.lists is not None:
        lines += _people(compared.lists)
    return [*lines, *(f"not compared: {note}" for note in compared.notes)]


def _people(lists: "Lists") -> list[str]:
    lines = [
        f"{len(lists.people)} made-up people: {lists.overlap10:.0%} of ten items stay "
        f"(least {lists.overlap10_least:.0%}), {lists.same_first:.0%} see the same first"
    ]
    for person in sorted(lists.people, key=lambda one: one.overlap)[:PEOPLE_SHOWN]:
        lines += [
            f"after {' '.join(person.history[-5:])}",
            f"  before: {' '.join(person.before)}",
            f"  after:  {' '.join(person.after)}",
        ]
    return lines


def _interval(interval: tuple[float, float] | None) -> str:
    return "-" if interval is None else f"{interval[0]:.4f}-{interval[1]:.4f}"
