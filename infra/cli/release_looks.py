"""`atoll release inspect|diff`: what is in a release, and what changes from one to the next. Runs in central's tier."""

import argparse
from pathlib import Path
from typing import Any

import msgspec

from infra.cli.looking import add_diff_options, check_diff_options, difference_text, inspection_text
from infra.cli.output import emit, progress_bar
from infra.cli.release_keys import leaf_repository


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
        "./atoll release diff OLD NEW --people 50 --shown 10",
    )  # fmt: skip
    diff.add_argument("before")
    diff.add_argument("after")
    add_diff_options(diff)


def _place(arguments: argparse.Namespace) -> dict[str, Path]:
    return {"repository": arguments.repository, "keys": arguments.keys}


def _inspect(arguments: argparse.Namespace) -> None:
    from central.release.publish import inspect_release, release_contents
    from infra.plumbing.releases.contents import ContentError

    found = inspect_release(**_place(arguments), release=arguments.release)
    contents = release_contents(**_place(arguments), release=arguments.release)
    note, stages, intervals, evaluation, stand_ins = "", {}, {}, None, 0
    try:
        stand_ins = contents.stand_ins
        figures, evaluation = contents.evaluation, contents.evaluation_json
        stages, intervals = {**figures.stage, **figures.baselines}, figures.intervals
    except ContentError as error:
        note = error.message
    text = inspection_text(
        arguments.release, gates=found.manifest.gates, stages=stages, intervals=intervals, sizes=found.sizes,
        content_sha256=found.content_sha256, files=found.manifest.files, note=note,
        stand_ins=stand_ins,
    )  # fmt: skip
    emit(arguments, {**msgspec.to_builtins(found), "evaluation": evaluation, "stand_ins": stand_ins}, text)


def _diff(arguments: argparse.Namespace) -> None:
    from central.release.publish import release_contents
    from infra.plumbing.releases.comparing import compare, diff_manifests

    check_diff_options(arguments)
    before, after = (
        release_contents(**_place(arguments), release=one) for one in (arguments.before, arguments.after)
    )  # fmt: skip
    files = diff_manifests(before.manifest, after.manifest, before=arguments.before, after=arguments.after)
    with progress_bar() as progress:
        compared = compare(before, after, people=arguments.people, seed=arguments.seed, progress=progress)
    text = difference_text(files, compared, shown=arguments.shown)
    emit(arguments, {**msgspec.to_builtins(files), **msgspec.to_builtins(compared)}, text)
