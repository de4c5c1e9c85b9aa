"""Central's acts: data, training, evaluation, one signed release."""

from pathlib import Path

from infra.demo.play import Play
from infra.demo.report import Line, bars_plot


async def data(play: Play, source: str) -> None:
    """Import the dataset as a plain folder."""
    with play.phase("data"):
        seen = await play.command("central", "data", "import", source, "--to", str(play.dataset))
    play.show(
        Line(
            "data",
            "real interactions, validated",
            f"{seen['interactions']:,} of {seen['users']:,} users on {seen['items']:,} items",
        )
    )


async def train(play: Play, minutes: float | None) -> None:
    """Train the retrieval model and the ranker."""
    words = ["train", "--dataset", str(play.dataset), "--out", str(play.model)]
    if minutes is not None:
        words += ["--minutes", str(minutes)]
    with play.phase("train"):
        await play.command("central", *words)


async def evaluate(play: Play, bundle: Path) -> None:
    """Rank the whole catalogue for every user, and show the figures beside the baselines."""
    with play.phase("evaluate"):
        report = await play.command(
            "central", "evaluate", "--dataset", str(play.dataset), "--model", str(play.model), "--bundle", str(bundle)
        )
    stage = report["stage"]["retrieval"]
    play.figures["evaluation"] = report
    popularity = report["baselines"]["popularity"]["ndcg10"]
    play.show(
        Line(
            "train", "TFRS two-tower model, last event of every user held out, whole catalogue ranked",
            f"HR@10 {stage['hr10']:.3f}, NDCG@10 {stage['ndcg10']:.3f} in {report['train_s']:.0f} s",
            f"above popularity ({popularity:.3f})", met=stage["ndcg10"] > popularity,
        )
    )  # fmt: skip
    bars = {name: figures["ndcg10"] for name, figures in report["baselines"].items()}
    for name in ("retrieval", "served"):
        if name in report["stage"]:
            bars[f"atoll, {name}"] = report["stage"][name]["ndcg10"]
    play.plots.append(bars_plot(bars, "NDCG@10, whole catalogue ranked, ties by file row", "NDCG@10"))


async def release(play: Play) -> Path:
    """Build the bundle, sign it, publish it as static files. Returns the bundle's folder."""
    with play.phase("release"):
        built = await play.command(
            "central",
            "release",
            "build",
            "--dataset",
            str(play.dataset),
            "--model",
            str(play.model),
            "--out",
            str(play.bundles),
        )
        await play.command("central", "release", "init", "--repository", str(play.repository), "--keys", str(play.keys))
        bundle = Path(built["path"])
        published = await publish_bundle(play, bundle, "stable")
    release_id: str = built["release"]
    play.figures["release"] = {
        "id": release_id, "hr10": built["metrics"]["hr10"], "ndcg10": built["metrics"]["ndcg10"],
    }  # fmt: skip
    play.show(
        Line("release", "content-addressed and signed (TUF)", f"{release_id}, {published['bytes_new'] / 1e6:.1f} MB")
    )
    return bundle


async def publish_bundle(play: Play, bundle: Path, channel: str) -> dict[str, int]:
    """Sign and publish one bundle on a channel."""
    return await play.command(
        "central", "release", "publish", str(bundle), "--repository", str(play.repository), "--keys", str(play.keys),
        "--channel", channel,
    )  # fmt: skip
