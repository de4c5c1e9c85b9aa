"""The served funnel's figures: requests go out to a file, a region answers them, the answers are scored here."""

from pathlib import Path

import msgspec
import numpy as np

from central.datasets.interactions import Interactions, Split
from central.evaluation.exact import exact_sample
from central.evaluation.metrics import NEVER, Ranks, ranking_metrics
from central.evaluation.results import Evaluation
from central.evaluation.slices import intervals
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.files import write_atomically

REQUESTS = "served_requests.msgpack"


class ServedRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One test user's question. Evaluation data stays where the dataset is: it is no message of the system."""

    user: str
    region: str
    items: tuple[str, ...]
    strengths: tuple[int, ...]
    times_s: tuple[float, ...]
    now_s: float
    target: str


def served_requests(
    data: Interactions, split: Split, *, users_max: int | None = None, seed: int = 0
) -> list[ServedRequest]:
    """Requests of the evaluated users, or of a sample of `users_max`, in the dataset's order."""
    chosen = np.arange(len(split.users))
    if users_max is not None and users_max < chosen.size:
        chosen = np.sort(np.random.default_rng(seed).choice(chosen, users_max, replace=False))
    return [_request(data, int(split.users[at]), int(split.test_at[at])) for at in chosen]


def _request(data: Interactions, user: int, at: int) -> ServedRequest:
    past = slice(int(data.starts[user]), at)
    return ServedRequest(
        user=data.user_ids[user],
        region=data.regions[data.user_regions[user]],
        items=tuple(data.items.ids[row] for row in data.rows[past]),
        strengths=tuple(data.strengths[past].tolist()),
        times_s=tuple(data.times_s[past].tolist()),
        now_s=float(data.times_s[at]),
        target=data.items.ids[data.rows[at]],
    )


def write_requests(requests: list[ServedRequest], folder: Path) -> Path:
    """Writes `served_requests.msgpack` into `folder`, whole or not at all."""
    path = folder / REQUESTS
    write_atomically(path, msgspec.msgpack.encode(requests))
    return path


def read_requests(path: Path) -> list[ServedRequest]:
    """Requests as written by `write_requests`.

    Raises:
        InvalidInputError: the file does not read.
    """
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=list[ServedRequest])
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidInputError(f"{path} does not read: {error}.", fix="Write the requests again.") from None


def read_answers(path: Path) -> dict[str, list[str]]:
    """Answers of a region: user id -> item ids, best first (MessagePack).

    Raises:
        InvalidInputError: the file does not read.
    """
    try:
        return msgspec.msgpack.decode(path.read_bytes(), type=dict[str, list[str]])
    except (OSError, msgspec.DecodeError) as error:
        raise InvalidInputError(f"{path} does not read: {error}.", fix="Let the region answer again.") from None


def with_served(evaluation: Evaluation, data: Interactions, split: Split, answers: Path) -> Evaluation:
    """The evaluation with the stages `served` and, where the ranker was tried on every item, `served_same_users`.

    Raises:
        InvalidInputError: the answers do not read.
    """
    given = read_answers(answers)
    asked = served_requests(data, split)
    answered = [request for request in asked if request.user in given]
    served, ranks = score_answers(answered, given)
    stage = {**evaluation.stage, "served": served}
    if "exact" in stage:
        same = [asked[at] for at in exact_sample(len(asked), len(data.items)) if asked[at].user in given]
        stage["served_same_users"], _ = score_answers(same, given)
    doubts = {**evaluation.intervals, "served": intervals(ranks)}
    return msgspec.structs.replace(evaluation, stage=stage, intervals=doubts, served_share_of_exact=_kept(stage))


def _kept(stage: dict[str, dict[str, float]]) -> float | None:
    """What the funnel keeps of the ranker's NDCG@10 over every item, on the same users."""
    exact = stage.get("exact", {}).get("ndcg10", 0.0)
    return stage["served_same_users"]["ndcg10"] / exact if exact > 0.0 else None


def score_answers(requests: list[ServedRequest], answers: dict[str, list[str]]) -> tuple[dict[str, float], Ranks]:
    """Figures of the served funnel and the ranks behind them.

    `answered` is the share of requests with an answer; a missing one is a miss.

    An item of the history or a repeated item takes no place from the others, but is counted in `not_filtered`: a slate
    should not hold any.
    """
    ranks = np.full(len(requests), NEVER, dtype=np.int64)
    wrong = 0
    for line, request in enumerate(requests):
        answer = answers.get(request.user, [])
        clean = [item for item in dict.fromkeys(answer) if item not in set(request.items)]
        wrong += len(answer) - len(clean)
        if request.target in clean:
            ranks[line] = clean.index(request.target) + 1
    answered = sum(bool(answers.get(request.user)) for request in requests)
    figures = {
        **ranking_metrics(ranks),
        "users": float(len(requests)),
        "answered": answered / max(len(requests), 1),
        "not_filtered": float(wrong),
    }
    return figures, ranks
