"""Which interactions are the test, by the name of the protocol."""

from central.datasets.importing import SEQUENCE_MIN, USERS_MIN, DatasetCard
from central.datasets.interactions import Interactions, Split, given_split, global_time_split, leave_last_out
from central.datasets.text import DatasetError
from central.evaluation.results import GIVEN, GLOBAL_TIME, LEAVE_LAST_OUT, PROTOCOLS
from infra.plumbing.errors import InvalidInputError


def default_protocol(card: DatasetCard) -> str:
    """The split that a dataset gives itself, or leave-last-out: what was kept for the test is not learned from."""
    return GIVEN if card.test_interactions else LEAVE_LAST_OUT


def split_for(data: Interactions, protocol: str) -> Split:
    """The split that `protocol` names.

    Raises:
        InvalidInputError: no such protocol.
        DatasetError: the dataset has no given split, no timestamps to split by, or too few users who could be tested.
    """
    if protocol not in PROTOCOLS:
        raise InvalidInputError(f"no protocol is called {protocol!r}.", fix=f"Use one of {', '.join(PROTOCOLS)}.")
    splits = {LEAVE_LAST_OUT: leave_last_out, GIVEN: given_split, GLOBAL_TIME: global_time_split}
    split = splits[protocol](data)
    if len(split.users) < USERS_MIN:
        raise DatasetError(
            f"{len(split.users)} users of {data.card.name} can be tested by {protocol}, and {USERS_MIN} are needed",
            fix=f"Bring users with {SEQUENCE_MIN} different items or more, or use another --protocol.",
        )
    return split
