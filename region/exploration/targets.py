"""The policies that estimates are asked of: named in a word, or as a rule file says."""

from collections.abc import Sequence

from msgspec.structs import replace

from infra.contracts.messages import Surface
from infra.plumbing.draws import named_generator
from infra.plumbing.errors import InvalidInputError
from region.exploration.estimating import Round
from region.exploration.policy import Chances, chances
from region.rules.reading import read_rules
from region.rules.ruleset import compile_rules
from region.rules.schema import Exploration

TARGET_DRAWS = 2_048
"""Posterior draws of a Thompson policy that is only thought of: its chances are estimated to within 0.01."""
_FREE = Exploration(new_share_min=0.0, new_share_max=1.0)


def named_policy(word: str) -> Exploration:
    """The policy of a word: `greedy`, `uniform`, `epsilon-greedy[:0.05]`, `thompson[:0.05]`; new items have no bounds.

    Raises:
        InvalidInputError: there is none of that name, or its number is none from 0 to 1.
    """
    name, _, number = word.partition(":")
    fixed = {"greedy": 0.0, "uniform": 1.0}
    if name in fixed and not number:
        return replace(_FREE, method="epsilon-greedy", epsilon=fixed[name])
    try:
        epsilon = float(number or "0.1")
    except ValueError:
        epsilon = -1.0
    if name not in ("epsilon-greedy", "thompson") or not 0.0 <= epsilon <= 1.0:
        raise InvalidInputError(
            f"{word} is no policy.",
            fix="Say greedy, uniform, epsilon-greedy:0.05 or thompson:0.1, or use --rules.",
        )
    return replace(_FREE, method=name, epsilon=epsilon)


def policy_of_rules(document: str, surface: Surface) -> Exploration:
    """The policy of a rule file on one surface.

    Raises:
        InvalidInputError: it is no rule file.
    """
    return compile_rules(read_rules(document), edition="proposed").settings[surface].exploration


def targets_of(policy: Exploration, rounds: Sequence[Round], *, draws: int = TARGET_DRAWS) -> list[Chances]:
    """What `policy` would have given every arm of every round."""
    return [
        chances(one.arms, policy, named_generator("target", one.exposure, str(one.position)), draws=draws)
        for one in rounds
    ]
