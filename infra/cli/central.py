"""`atoll data`, `train`, `evaluate` and `release`: central's day. Runs in the central environment."""

import argparse
from pathlib import Path
from typing import Any

from infra.cli.dataset_folders import ready_dataset
from infra.cli.output import emit, progress_bar, table
from infra.cli.release_keys import leaf, leaf_repository, register_keys
from infra.cli.release_looks import register_looks
from infra.cli.training import register_train
from infra.plumbing.clock import SystemClock


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """All of central's commands."""
    _register_data(commands)
    register_train(commands)
    _register_evaluate(commands)
    _register_release(commands)


def _register_data(commands: Any) -> None:
    text = "datasets as plain folders"
    data = commands.add_parser(
        "data", help=text, description=f"{text}. Example: ./atoll data import ml-100k --to data/ml-100k"
    )
    verbs = data.add_subparsers(metavar="VERB", required=True)
    importing = leaf(
        verbs,
        "import",
        _import,
        "read a dataset and write it as a plain folder",
        "./atoll data import ml-100k --to data/ml-100k",
    )
    importing.add_argument("source", help="ml-100k, a MovieLens archive or folder, a recbole wheel, or a plain folder")
    importing.add_argument("--to", type=Path, required=True, metavar="DIR", help="the folder to make")
    for name, run, says in (
        ("describe", _describe, "say what a dataset holds and what that implies"),
        ("validate", _validate, "check a plain dataset folder and say what is wrong with it"),
    ):
        parser = leaf(verbs, name, run, says, f"./atoll data {name} data/ml-100k")
        parser.add_argument("dataset", type=Path)


def _register_evaluate(commands: Any) -> None:
    parser = leaf(
        commands, "evaluate", _evaluate, "rank the whole catalogue for every user and compare with baselines",
        "./atoll evaluate --dataset data/ml-100k --model models/first --json -",
    )  # fmt: skip
    parser.add_argument("--dataset", type=Path, required=True, metavar="DIR")
    parser.add_argument("--model", type=Path, required=True, metavar="DIR")
    parser.add_argument("--bundle", type=Path, default=None, metavar="DIR", help="the release built from the model")
    parser.add_argument(
        "--seeds", type=int, default=1, metavar="N",
        help="evaluate the N models that train --seeds N made, each with its funnel: means, and intervals over seeds "
        "beside those over users; what --beside trained stands beside",
    )  # fmt: skip
    parser.add_argument(
        "--also", type=Path, action="append", default=[], metavar="MODEL",
        help="a model of the same dataset that was trained otherwise (--items-only, --ties random, --seed): its "
        "figures stand beside; may be given again",
    )  # fmt: skip
    parser.add_argument(
        "--cold-items", action="store_true",
        help="train the towers anew without a tenth of the items and ask for those by their metadata; nothing else",
    )  # fmt: skip
    parser.add_argument("--minutes", type=float, default=None, help="how long --cold-items may train at most")
    parser.add_argument("--report", type=Path, default=None, metavar="FILE", help="write an HTML page with plots")
    parser.add_argument(
        "--no-served", action="store_true", help="leave out the funnel as a region serves it (ScaNN, ranker, rules)"
    )


def _register_release(commands: Any) -> None:
    text = "releases: build, sign, publish, look at"
    release = commands.add_parser(
        "release", help=text, description=f"{text}. Example: ./atoll release list --repository .atoll/repository"
    )
    verbs = release.add_subparsers(metavar="VERB", required=True)
    build = leaf(
        verbs, "build", _build, "make an immutable bundle of a trained model",
        "./atoll release build --dataset data/ml-100k --model models/first --out bundles",
    )  # fmt: skip
    derive = leaf(
        verbs, "derive", _derive, "make a candidate bundle from a model and what a federated round trained",
        "./atoll release derive --dataset data/ml-100k --model models/first --adapter FILE --parent BUNDLE --out DIR",
    )  # fmt: skip
    for parser in (build, derive):
        parser.add_argument("--dataset", type=Path, required=True, metavar="DIR")
        parser.add_argument("--model", type=Path, required=True, metavar="DIR")
        parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="the bundle appears as DIR/RELEASE")
        parser.add_argument(
            "--allow-failed-gates", action="store_true", help="build all the same; the manifest says so"
        )
    build.add_argument("--active", type=Path, default=None, metavar="BUNDLE", help="bundle that the gates compare with")
    build.add_argument(
        "--aggregates", type=Path, default=None, metavar="DIR",
        help="extracts of aggregates of regions (aggregates-REGION.json): what is popular there is by their own counts",
    )  # fmt: skip
    derive.add_argument("--adapter", type=Path, required=True, metavar="FILE")
    derive.add_argument(
        "--items",
        type=Path,
        default=None,
        metavar="FILE",
        help="items.npz of a run with --train items: how far items move, and what phones read in their place",
    )
    derive.add_argument(
        "--parent", type=Path, required=True, metavar="BUNDLE", help="bundle that the adapter was trained on"
    )
    register_keys(verbs)
    publish = leaf_repository(
        verbs,
        "publish",
        _publish,
        "sign a bundle and publish it on a channel",
        "./atoll release publish bundles/ID --channel stable",
    )
    publish.add_argument("bundle", type=Path)
    publish.add_argument("--channel", default="stable")
    leaf_repository(verbs, "list", _list, "show what is published, and who signs it until when", "./atoll release list")
    register_looks(verbs)


def _import(arguments: argparse.Namespace) -> None:
    from central.commands import import_dataset

    with progress_bar() as progress:
        card = import_dataset(source=arguments.source, out=arguments.to, progress=progress)
    emit(
        arguments, card,
        f"{arguments.to}: {card.interactions:,} interactions of {card.users:,} users on {card.items:,} items",
    )  # fmt: skip


def _describe(arguments: argparse.Namespace) -> None:
    from central.commands import describe_dataset

    description = describe_dataset(dataset=ready_dataset(arguments.dataset))
    rows = [
        {"users": description.users, "items": description.items, "interactions": description.interactions,
         "days": description.days, "per user": description.per_user_median, "density": description.density}
    ]  # fmt: skip
    kinds, regions = (
        ", ".join(f"{name} {count:,}" for name, count in sorted(of.items(), key=lambda one: -one[1]))
        for of in (description.event_types, description.regions)
    )
    seen = [f"events: {kinds}", f"users by region: {regions}"]
    emit(
        arguments, description,
        "\n".join([table(rows), *seen, *description.implies, description.training.sentence()]),
    )  # fmt: skip


def _validate(arguments: argparse.Namespace) -> None:
    from central.commands import validate_dataset

    card = validate_dataset(source=str(arguments.dataset))
    emit(arguments, card, f"{arguments.dataset} is a valid dataset: {card.interactions:,} interactions")


def _evaluate(arguments: argparse.Namespace) -> None:
    from infra.cli.evaluating import evaluate_everything, seeds_text

    dataset = ready_dataset(arguments.dataset)
    if arguments.cold_items:
        _evaluate_cold(arguments, dataset)
        return
    with progress_bar() as progress:
        report = evaluate_everything(
            dataset=dataset, model=arguments.model, bundle=arguments.bundle, served=not arguments.no_served,
            also=arguments.also, seeds=arguments.seeds, report=arguments.report, progress=progress,
        )  # fmt: skip
    rows = [{"": f"baseline {name}", **_headline(figures)} for name, figures in report["baselines"].items()]
    rows += [{"": name, **_headline(figures)} for name, figures in report["stage"].items()]
    rows += [{"": name, **_headline(figures)} for name, figures in report["variants"].items()]
    rows += [{"": f"session {name}", **_headline(figures)} for name, figures in report["sessions"].items()]
    kept = report["served_share_of_exact"]
    said = "" if kept is None else f"\nserved keeps {kept:.4f} of the NDCG@10 of the ranker over every item"
    seeds = seeds_text(report["seeds"]) if report["seeds"] else ""
    emit(arguments, report, f"{report['dataset']}: {report['protocol']}\n{table(rows)}{said}{seeds}")


def _evaluate_cold(arguments: argparse.Namespace, dataset: Path) -> None:
    from central.commands import evaluate_cold

    with progress_bar() as progress:
        found = evaluate_cold(model=arguments.model, dataset=dataset, minutes=arguments.minutes, progress=progress)
    emit(
        arguments, found,
        f"{found.items} cold items, {found.queries} interactions with them: HR@10 {found.hr10:.4f}, by popularity of "
        f"the category {found.popularity_by_category_hr10:.4f}, at random {found.random_hr10:.4f}",
    )  # fmt: skip


def _headline(figures: dict[str, float]) -> dict[str, float | None]:
    return {key: figures.get(key) for key in ("hr10", "ndcg10", "hr50", "recall20", "mrr10", "coverage10")}


def _build(arguments: argparse.Namespace) -> None:
    from central.commands import build_release

    dataset = ready_dataset(arguments.dataset)
    with progress_bar() as progress:
        built = build_release(
            dataset=dataset, model=arguments.model, out=arguments.out, active=arguments.active,
            aggregates=arguments.aggregates, allow_failed_gates=arguments.allow_failed_gates, progress=progress,
        )  # fmt: skip
    emit(arguments, built, _built(built))


def _derive(arguments: argparse.Namespace) -> None:
    import numpy as np

    from central.commands import derive_release

    dataset = ready_dataset(arguments.dataset)
    with progress_bar() as progress:
        built = derive_release(
            dataset=dataset, model=arguments.model, parent=arguments.parent, out=arguments.out,
            adapter=np.load(arguments.adapter, allow_pickle=False), allow_failed_gates=arguments.allow_failed_gates,
            items=arguments.items, progress=progress,
        )  # fmt: skip
    emit(arguments, built, _built(built))


def _publish(arguments: argparse.Namespace) -> None:
    from central.release.publish import publish

    with progress_bar() as progress:
        done = publish(
            bundle=arguments.bundle, repository=arguments.repository, keys=arguments.keys, channel=arguments.channel,
            clock=SystemClock(), progress=progress,
        )  # fmt: skip
    emit(
        arguments, done,
        f"{done.channel} -> {done.release}: {done.bytes_new:,} bytes new, {done.bytes_shared:,} were there already",
    )  # fmt: skip


def _built(built: Any) -> str:
    counted = [
        f"{one.region}: lists by its own counts of {one.known} items"
        + (f" ({one.unknown} more are not in this catalogue)" if one.unknown else "")
        for one in built.counted
    ]
    head = f"{built.release} in {built.path}, content {built.content_sha256[:16]}"
    read = [f"phones read {built.stand_ins} items as others, whose taste is alike"] if built.stand_ins else []
    return "\n".join([head, *built.sentences, *counted, *read])


def _list(arguments: argparse.Namespace) -> None:
    from central.release.publish import list_releases
    from central.release.roles import roles_of

    releases = list_releases(repository=arguments.repository, keys=arguments.keys)
    rows = [
        {"release": one.release, "origin": one.origin, "channels": ",".join(one.channels) or "-",
         "dataset": one.dataset, "ndcg10": one.metrics.get("ndcg10"), "bytes": one.bytes_total}
        for one in releases
    ]  # fmt: skip
    roles = roles_of(repository=arguments.repository, keys=arguments.keys, clock=SystemClock())
    signers = [
        {"role": one.role, "signers": f"{one.threshold} of {one.keys}", "version": one.version, "until": one.expires,
         "": one.folder or _urgent(one.left_h)}
        for one in roles
    ]  # fmt: skip
    emit(arguments, {"releases": releases, "roles": roles}, f"{table(rows)}\n\n{table(signers)}")


def _urgent(left_h: float | None) -> str:
    if left_h is None or left_h > 12.0:
        return ""
    return f"{left_h:.0f} h left: ./atoll release renew" if left_h > 0.0 else "EXPIRED: ./atoll release renew"
