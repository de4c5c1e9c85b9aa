"""Which interactions are the test, by the name of the protocol."""

from central.datasets.interactions import Interactions, Split, given_split, global_time_split, leave_last_out
from central.evaluation.results import GIVEN, GLOBAL_TIME, LEAVE_LAST_OUT, PROTOCOLS
from infra.plumbing.errors import InvalidInputError


def split_for(data: Interactions, protocol: str) -> Split:
    """The split that `protocol` names.

    Raises:
        InvalidInputError: no such protocol.
        DatasetError: the dataset has no given split, or no timestamps to split by.
    """
    if protocol == LEAVE_LAST_OUT:
        return leave_last_out(data)
    if protocol == GIVEN:
        return given_split(data)
    if protocol == GLOBAL_TIME:
        return global_time_split(data)
    raise InvalidInputError(f"no protocol is called {protocol!r}.", fix=f"Use one of {', '.join(PROTOCOLS)}.")
