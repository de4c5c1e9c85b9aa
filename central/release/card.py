"""The model card of a release: what it is, what it was trained on, how good it is, what it must not be used for."""

from collections.abc import Iterable, Mapping, Sequence

from central.datasets.aggregates import RegionCounts
from central.evaluation.gates import Verdict
from central.evaluation.results import Evaluation
from central.training.config import ModelCard

_COLUMNS = ("hr10", "ndcg10", "recall20", "ndcg20", "hr50", "mrr10", "coverage10", "novelty10")


def model_card(
    model: ModelCard, evaluation: Evaluation, verdict: Verdict, *, origin: str, counted: Sequence[RegionCounts] = ()
) -> str:  # fmt: skip
    """Markdown for people who decide whether to run the release."""
    config = model.retrieval
    return "\n".join(
        [
            f"# Model card: {model.dataset}",
            "",
            "## What it is",
            f"A two-tower retrieval model (TensorFlow Recommenders) and a DCN-v2 ranker, origin `{origin}`.",
            (
                "The user tower is a causal transformer"
                if config.towers == 1
                else f"The user tower is {config.towers} causal transformers side by side, each"
            )
            + f" ({config.layers} layers, {config.heads} heads, width "
            f"{config.dim // config.towers}) over the last {config.history_length} interactions"
            + (" with their strengths and the gaps in time between them." if config.context else ", items only."),
            "The item tower adds a row of its own, categories and year; an item that nobody has touched gets a vector "
            "from its categories, year and title.",
            f"Loss: {'full softmax over the catalogue' if config.full_softmax else 'in-batch, log-Q corrected'}. "
            f"Epochs: {model.epochs}. Training: {model.train_s:.0f} s. Seed: {config.seed}.",
            "",
            "## Data",
            f"`{model.dataset}` (SHA-256 `{model.dataset_sha256}`), {evaluation.users} evaluated users, "
            f"{evaluation.items} items.",
            *_counted(counted),
            "",
            "## Figures",
            f"Protocol: {evaluation.protocol}. Ties: {evaluation.ties}.",
            "",
            *_table({**evaluation.stage, **evaluation.baselines}),
            "",
            f"Users whose test interaction does not share its moment with the one before: {_short(evaluation.untied)}. "
            f"Standard error over users: {_short(evaluation.standard_error)}.",
            "",
            "| region | users | HR@10 | NDCG@10 |",
            "|---|---|---|---|",
            *(
                f"| {name} | {figures['users']:.0f} | {figures['hr10']:.4f} | {figures['ndcg10']:.4f} |"
                for name, figures in evaluation.regions.items()
            ),
            "",
            "## Gates",
            *(f"- {sentence}" for sentence in verdict.sentences),
            "",
            "## Limits",
            "Offline figures are of one data set and one split; they say nothing about items without interactions and "
            "nothing about what people would have done with another list. Popular items are favoured. No user id, "
            "age, gender or zip code is an input of the model.",
            "",
        ]
    )


def _counted(counted: Iterable[RegionCounts]) -> list[str]:
    """Whose lists come from the region's own counts, and at what price."""
    return [
        f"What is popular in {one.region} is by the region's own counts of {one.known} items ({one.provenance}); no "
        "tower and no ranker has learned from them."
        for one in counted
    ]


def _table(rows: Mapping[str, Mapping[str, float]]) -> list[str]:
    lines = ["| | " + " | ".join(_COLUMNS) + " |", "|---" * (len(_COLUMNS) + 1) + "|"]
    for name, figures in rows.items():
        cells = (f"{figures[column]:.4f}" if column in figures else "" for column in _COLUMNS)
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return lines


def _short(figures: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
