"""What is published of an evaluation."""

from typing import Final

import msgspec

LEAVE_LAST_OUT: Final = "leave-last-out"
GIVEN: Final = "given"
GLOBAL_TIME: Final = "global-time"
PROTOCOLS: Final = (LEAVE_LAST_OUT, GIVEN, GLOBAL_TIME)
Interval = tuple[float, float]
_SENTENCES: Final = {
    LEAVE_LAST_OUT: "each user's last interaction (with an item that was new to them) is the test, the one before it "
    "is for validation",
    GLOBAL_TIME: "nothing after one moment for all users is learned from; each user's first interaction after it is "
    "the test, the last before it is for validation",
    GIVEN: "the first interaction that test.csv keeps of each user is the test",
}


class LeakCheck(msgspec.Struct, frozen=True, kw_only=True):
    """What the leak check found; `passed` is whether nothing of the test can be learned from.

    `learned_inputs`: test or validation interactions that training windows hold. `tables_moved`: tables that change
    when every test interaction is replaced by another item. `taken_before`: share of users whose test item is in
    their history already (it is never recommended, so it counts as missed). `later_share`: share of what is known
    that happened after the median test interaction: 0 in a split by time, unavoidable in leave-last-out, where
    popularity knows the future of others.
    """

    passed: bool
    learned_inputs: int
    tables_moved: tuple[str, ...]
    taken_before: float
    later_share: float


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """One figure over models that differ by their seed.

    `low` to `high`: Student's interval of the mean over seeds; `deviation`: of one seed (n - 1); `users`: the interval
    over users of one model, bounds averaged over the seeds, where there is one.
    """

    mean: float
    deviation: float
    low: float
    high: float
    values: tuple[float, ...]
    users: Interval | None = None


class SeedFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Figures over several seeds: by stage, and of what was trained beside (random ties, items only) by kind."""

    seeds: tuple[int, ...]
    stage: dict[str, dict[str, Spread]]
    variants: dict[str, dict[str, Spread]]
    train_s: Spread
    served_share_of_exact: Spread | None = None


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What is published of an evaluation, and `evaluation.json` of a release.

    `stage`: `retrieval` (dot product over the whole catalogue), `ranked` (ranker over retrieval's candidates, on a
    sample of users, with `retrieval_same_users` beside it), `exact` (ranker over the whole catalogue, on a sample of
    users), `served` when a region's funnel was scored, with `served_same_users` for those of `exact`. `untied`:
    retrieval on the users whose test interaction does not share its second with the one before. `slices`: retrieval by
    `region`, `cohort` and `popularity`. `intervals`: bootstrap intervals over users by stage and baseline.
    `calibration`: of each head of the ranker, relative to the rate. `variants`: retrieval figures of models that were
    trained otherwise. `context`: whether the tower read strengths and gaps. `sessions`: where only the running session
    is known, the tower and models made for sessions. `served_share_of_exact`: NDCG@10 of the served funnel over that of
    the ranker on every item, the same users. `seeds`: over models of several seeds, this one the first.
    """

    dataset: str
    dataset_sha256: str
    protocol: str
    ties: str
    users: int
    items: int
    stage: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, float]]
    regions: dict[str, dict[str, float]]
    untied: dict[str, float]
    standard_error: dict[str, float]
    train_s: float
    slices: dict[str, dict[str, dict[str, float]]] = {}
    intervals: dict[str, dict[str, Interval]] = {}
    calibration: dict[str, float] = {}
    curve: tuple[float, ...] = ()
    leaks: LeakCheck | None = None
    variants: dict[str, dict[str, float]] = {}
    context: bool = True
    seed: int = 0
    sessions: dict[str, dict[str, float]] = {}
    served_share_of_exact: float | None = None
    seeds: SeedFigures | None = None


def protocol_sentence(protocol: str, *, has_times: bool = True) -> str:
    """The protocol in words, as it stands beside every figure."""
    if not has_times:
        order = "there are no timestamps: the order of each history is drawn at random"
        return f"{protocol}: {_SENTENCES[protocol]}; {order}; all items are ranked, the user's history taken out"
    return (
        f"{protocol}: {_SENTENCES[protocol]}; the tower knows the moment of the request; all items are ranked, the "
        "user's history taken out; equal moments stay in the order of the file unless ties say otherwise"
    )
