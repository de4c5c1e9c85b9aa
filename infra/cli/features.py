"""`atoll features`: a region's features in batch, and whether serving and training agree on them."""

import argparse
from pathlib import Path
from typing import Any

from infra.cli import bootstrap
from infra.cli.events import add_region, run_tool, settings_of
from infra.cli.output import add_json_option, emit, table
from infra.cli.servers import ready_java
from infra.plumbing.errors import AtollError
from infra.plumbing.private_folders import private_folder


class SkewError(AtollError):
    """Requests were answered with feature values that training would not compute."""


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll features batch|parity`."""
    text = "a region's features, made from its log"
    features = commands.add_parser(
        "features", help=text, description=f"{text}. Example: ./atoll features parity --region us-east"
    )
    verbs = features.add_subparsers(metavar="VERB", required=True)
    batch = _leaf(verbs, "batch", _batch, "compute every feature of every user from the log (Ibis on DuckDB or Spark)")
    batch.add_argument(
        "--engine", choices=("duckdb", "spark"), default="duckdb",
        help="spark is fetched at the first use, with a Java 17 if the machine has none (default duckdb)",
    )  # fmt: skip
    batch.add_argument("--out", type=Path, default=Path("features"), metavar="DIR", help="where Parquet files go")
    says = "hold the features that answered sampled requests against the batch definition; fails on skew"
    _leaf(verbs, "parity", _parity, says)


def _leaf(verbs: Any, name: str, run: Any, text: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = verbs.add_parser(
        name, help=text, description=f"{text}. Example: ./atoll features {name} --region us-east"
    )
    add_region(parser)
    add_json_option(parser)
    parser.set_defaults(run=run)
    return parser


def _export(arguments: argparse.Namespace, to: Path) -> Any:
    words = ["export", "--settings", str(settings_of(arguments).resolve()), "--out", str(to)]
    return run_tool("region", "region.events", words)


def _batch(arguments: argparse.Namespace) -> None:
    out = arguments.out.resolve()
    with private_folder() as work:
        _export(arguments, work)
        words = ["features", "--export", str(work), "--out", str(out), "--engine", arguments.engine]
        tier, additions = _engine(arguments.engine)
        found = run_tool(tier, "region.batch", words, additions=additions)
    rows = [{"feature": name, "rows": count, "file": f"{name}.parquet"} for name, count in found["rows"].items()]
    emit(
        arguments, found, f"{table(rows)}\n{found['events']} events on {found['engine']} in {found['seconds']} s: {out}"
    )


def _engine(engine: str) -> tuple[str, dict[str, str]]:
    """The tier that carries an engine, and environment variables that it needs; brings Spark when it is wanted."""
    if engine != "spark":
        return "batch", {}
    bootstrap.prepare(("spark",))
    # `<home>/bin/java`, behind whatever links the machine has; and what a region's log holds is heard on loopback only.
    return "spark", {"JAVA_HOME": str(Path(ready_java()).resolve().parents[1]), "SPARK_LOCAL_IP": "127.0.0.1"}


def _parity(arguments: argparse.Namespace) -> None:
    with private_folder() as work:
        _export(arguments, work)
        found = run_tool("batch", "region.batch", ["parity", "--export", str(work)])
    lines = [f"{found['samples']} sampled requests"]
    lines += [f"left out: {why}: {count}" for why, count in found["left_out"].items()]
    rows = [{"feature": name, "compared": count} for name, count in found["compared"].items()]
    lines.append(table(rows))
    lines += [
        f"SKEW {one['feature']}: {one['samples']} requests, worst difference {one['worst']:g}: "
        f"served {one['served']}, expected {one['expected']}"
        for one in found["skews"]
    ]  # fmt: skip
    emit(arguments, found, "\n".join(lines))
    if found["skews"]:
        worst = ", ".join(f"{one['feature']} ({one['worst']:g})" for one in found["skews"])
        raise SkewError(
            f"serving and training disagree on {worst}.",
            fix="One definition was changed without the other, or a store holds rows of an older one: replay the log.",
        )
