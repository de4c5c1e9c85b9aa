"""Whether a plan may be carried out in this region."""

from federation.messages import ROUND_ID_PATTERN, RoundPlan, from_bytes, rows_of
from federation.settings import CohortSettings
from infra.plumbing.errors import ForbiddenError, InvalidInputError

LOCAL_STEPS_MAX = 200


def require_sound(plan: RoundPlan, policy: CohortSettings) -> None:
    """Check a plan against its own shape and the region's policy.

    Raises:
        InvalidInputError: it is malformed, or larger than this region takes.
        ForbiddenError: it asks for less noise, or counts on more sampling, than this region's policy.
    """
    if not ROUND_ID_PATTERN.fullmatch(plan.round_id):
        raise InvalidInputError("the round id is malformed.", fix="Use 16 to 64 lower-case hex digits.")
    if not 1 <= plan.rank <= plan.dim:
        raise InvalidInputError(f"the plan's rank {plan.rank} does not fit dim {plan.dim}.")
    rows_of(plan)
    if plan.length > policy.parameters_max:
        raise InvalidInputError(f"the plan has {plan.length} numbers; this region takes {policy.parameters_max}.")
    if not (0.0 < plan.clipping_norm < float("inf") and 1 <= plan.local_steps <= LOCAL_STEPS_MAX):
        raise InvalidInputError(f"the clipping norm must be positive and local steps between 1 and {LOCAL_STEPS_MAX}.")
    from_bytes(plan.basis, (plan.dim, plan.rank), what="basis")
    from_bytes(plan.core, plan.core_shape, what="core")
    if policy.sampling_probability > plan.sampling_probability:
        raise ForbiddenError(
            f"the plan counts on a sampling probability of {plan.sampling_probability}; this region's is "
            f"{policy.sampling_probability}.",
            fix="Plan, and book, with the region's own probability.",
        )
    floor = policy.noise_multiplier_min
    if not (plan.noise_multiplier > 0.0 and floor <= plan.noise_multiplier < float("inf")):
        raise ForbiddenError(
            f"the plan asks for a noise multiplier of {plan.noise_multiplier}; this region adds at least {floor}.",
            fix="Plan with more noise, or ask the region's operator.",
        )
