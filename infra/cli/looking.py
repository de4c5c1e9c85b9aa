"""Releases in words: what is in one, and two of them side by side. For central's commands and the region's."""

import argparse
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from infra.cli.output import table
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.releases.messages import PEOPLE, PEOPLE_MAX

if TYPE_CHECKING:
    from infra.contracts.release import FileEntry
    from infra.plumbing.releases.messages import Comparison, Interval, Lists, Person, ReleaseDiff

SHOWN = 3
HISTORY_SHOWN = 5
SAME = "both do the same: what differs is the moment of the build, the reports, or how the index is partitioned"
COLUMN_MAX = 46
"""Characters of an item beside another."""


def add_diff_options(parser: argparse.ArgumentParser) -> None:
    """How two releases are compared, and how much of it is shown."""
    parser.add_argument(
        "--people", type=int, default=PEOPLE,
        help=f"made-up histories that get lists from both (default {PEOPLE}; 0: none)",
    )  # fmt: skip
    parser.add_argument(
        "--shown", type=int, default=SHOWN, metavar="N",
        help=f"how many of their lists to show side by side, those that change most first (default {SHOWN}; "
        "--json has all)",
    )  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, help="of the made-up histories and samples")


def check_diff_options(arguments: argparse.Namespace) -> None:
    """Refuse numbers that are out of bounds.

    Raises:
        InvalidInputError: one is.
    """
    if not 0 <= arguments.people <= PEOPLE_MAX:
        raise InvalidInputError(f"--people must lie between 0 and {PEOPLE_MAX}.", fix=f"{PEOPLE} show most of it.")
    for name in ("seed", "shown"):
        if getattr(arguments, name) < 0:
            raise InvalidInputError(f"--{name} must be 0 or more.", fix="Leave it out.")


def inspection_text(
    release: str, *, gates: Mapping[str, bool], stages: Mapping[str, Mapping[str, float]],
    intervals: "Mapping[str, Mapping[str, Interval]]", sizes: Mapping[str, int], content_sha256: str,
    files: "Mapping[str, FileEntry]", note: str, stand_ins: int = 0,
) -> str:  # fmt: skip
    """One release."""
    passed = ", ".join(f"{name} {'passed' if passed else 'FAILED'}" for name, passed in gates.items())
    figures = [
        {"stage": stage, "hr10": of.get("hr10"), "ndcg10": of.get("ndcg10"),
         "95 % of ndcg10": _interval(intervals.get(stage, {}).get("ndcg10"))}
        for stage, of in stages.items()
    ]  # fmt: skip
    listed = [
        {"file": name, "bytes": entry.length, "sha256": entry.sha256[:16]} for name, entry in sorted(files.items())
    ]
    parts = ", ".join(f"{part} {size:,}" for part, size in sizes.items())
    read = f"phones read {stand_ins} items as others, whose taste is alike\n" if stand_ins else ""
    return (
        f"{release}: {passed}\n{note or table(figures)}\nbytes: {parts}\n{read}"
        f"content {content_sha256}: of all but the index and the reports; the same data, code and seed on one machine "
        "give the same. The index follows from the vectors, and ScaNN builds another each time; the release's name "
        f"covers that too, and the moment of the build\n{table(listed)}"
    )


def difference_text(files: "ReleaseDiff", compared: "Comparison", *, shown: int) -> str:
    """Two releases side by side."""
    return "\n".join(
        [
            *_said(compared, shown=shown),
            f"changed files: {', '.join(files.changed) or 'nothing'}",
            f"a region that has {files.before} fetches {files.bytes_new:,} bytes, less what deltas save",
            *([SAME] if files.same_content else []),
        ]
    )


def _said(compared: "Comparison", *, shown: int) -> Iterator[str]:
    yield table(
        [
            {"stage": one.stage, "metric": one.name, "before": one.before, "95 %": _interval(one.before_interval),
             "after": one.after, "95 % ": _interval(one.after_interval), "says": one.says}
            for one in compared.metrics
        ]
    )  # fmt: skip
    yield table([{"part": part, "bytes before": old, "after": new} for part, (old, new) in compared.sizes.items()])
    if (words := compared.vocabulary) is not None:
        yield (
            f"items: {words.items_before:,} -> {words.items_after:,}, {words.added:,} added, "
            f"{words.removed:,} removed; categories: {len(words.categories_added)} added, "
            f"{len(words.categories_removed)} removed"
        )
    if (drift := compared.drift) is not None:
        quantiles = ", ".join(f"{name} {value:.3f}" for name, value in drift.cosine.items())
        yield (
            f"vectors of {drift.items:,} items: cosine after the best rotation {quantiles}; "
            f"{drift.neighbours_overlap:.0%} of the 20 nearest are the same"
        )
    if compared.lists is not None:
        yield from _people(compared.lists, shown=shown)
    for note in compared.notes:
        yield f"not compared: {note}"


def _people(lists: "Lists", *, shown: int) -> Iterator[str]:
    yield (
        f"{len(lists.people)} made-up people: {lists.overlap10:.0%} of ten items stay "
        f"(least {lists.overlap10_least:.0%}), {lists.same_first:.0%} see the same first"
    )
    for person in sorted(lists.people, key=lambda one: one.overlap)[:shown]:
        last = ", ".join(_named(item, lists) for item in person.history[-HISTORY_SHOWN:])
        yield f"after {last} ({person.overlap:.0%} stay)"
        yield table(list(_side_by_side(person, lists)))


def _side_by_side(person: "Person", lists: "Lists") -> Iterator[dict[str, Any]]:
    for place in range(max(len(person.before), len(person.after))):
        old, new = (_named(one[place], lists) if place < len(one) else "" for one in (person.before, person.after))
        yield {"": place + 1, "before": old, "after": new, " ": "" if old == new else "*"}


def _named(item: str, lists: "Lists") -> str:
    title = lists.titles.get(item)
    text = item if title is None else f"{title} ({item})"
    return text if len(text) <= COLUMN_MAX else f"{text[: COLUMN_MAX - 3]}..."


def _interval(interval: "Interval | None") -> str:
    return "-" if interval is None else f"{interval[0]:.4f}-{interval[1]:.4f}"
