"""Options of a shadow or canary: what is out of bounds is refused by the option's own name, before anybody is asked."""

import pytest

from infra.cli.__main__ import build_parser
from infra.cli.region import _plan
from infra.plumbing.errors import InvalidInputError

RELEASE = "0123456789abcdef0123"


def plan_of(kind: str, *options: str) -> object:
    return _plan(build_parser().parse_args(["region", "us-east", kind, RELEASE, *options]))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (("--share", "2"), r"--share is 2.0: expected `float` <= 0.5"),
        (("--minutes", "0"), r"--minutes, in seconds, is 0.0: expected `float` > 0.0"),
        (("--click-loss-max", "1"), r"--click-loss-max is 1.0: expected `float` < 1.0"),
        (("--slow-ms", "-1"), r"--slow-ms is -1.0: expected `float` > 0.0"),
    ],
)
def test_what_is_out_of_bounds_is_named(options: tuple[str, ...], says: str) -> None:
    with pytest.raises(InvalidInputError, match=says):
        plan_of("canary", *options)


def test_a_shadow_has_no_clicks_to_lose() -> None:
    plan = plan_of("shadow", "--share", "0.2", "--minutes", "5")
    assert (plan.share, plan.duration_s, plan.release) == (0.2, 300.0, RELEASE)  # type: ignore[attr-defined]
