"""What is published of an evaluation."""

from typing import Final

import msgspec

LEAVE_LAST_OUT: Final = "leave-last-out"
GIVEN: Final = "given"
_SENTENCES: Final = {
    LEAVE_LAST_OUT: "each user's last interaction is the test, the one before it is for validation",
    GIVEN: "the first interaction that test.csv keeps of each user is the test",
}


class Evaluation(msgspec.Struct, frozen=True, kw_only=True):
    """What is published of an evaluation, and `evaluation.json` of a release.

    `stage`: `retrieval` (dot product over the whole catalogue), `ranked` (ranker over retrieval's candidates, on a
    sample of users, with `retrieval_same_users` beside it), `served` when a region's funnel was scored. `untied`:
    retrieval on the users whose test interaction does not share its second with the one before.
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


def protocol_sentence(protocol: str) -> str:
    """The protocol in words, as it stands beside every figure."""
    return (
        f"{protocol}: {_SENTENCES[protocol]}; the tower knows the moment of the request; all items are ranked, the "
        "user's history taken out; equal moments stay in the order of the file unless ties say otherwise"
    )
