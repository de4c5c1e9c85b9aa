"""What a region's export policy lets out, by type and at run time: the ways someone could try to get around it."""

from typing import Any, ClassVar

import msgspec
import pytest

from infra.contracts.extracts import AggregateExtract, SequenceExtract
from infra.contracts.residency import (
    ExportPolicy,
    Extract,
    Global,
    GlobalMessage,
    Regional,
    RegionalMessage,
    ResidencyError,
    encode_extract,
    encode_global,
    encode_regional,
)

SEQUENCE = SequenceExtract(region="us-east", key="0" * 32, period=1, items=("a",), strengths=(5,), hours=(1,))
AGGREGATES = AggregateExtract(
    region="us-east", made_hour=1, users_min=20, epsilon=1.0, delta=1e-6, items=(), pairs=()
)  # fmt: skip


@pytest.mark.parametrize(
    ("policy", "sequences", "aggregates"),
    [
        (ExportPolicy.NONE, False, False),
        (ExportPolicy.AGGREGATES, False, True),
        (ExportPolicy.PSEUDONYMOUS, True, True),
    ],
)
def test_a_policy_lets_out_its_kind_and_what_is_narrower(
    policy: ExportPolicy, sequences: bool, aggregates: bool
) -> None:
    for extract, allowed in ((SEQUENCE, sequences), (AGGREGATES, aggregates)):
        if allowed:
            assert msgspec.json.decode(encode_extract(extract, policy), type=type(extract)) == extract
        else:
            with pytest.raises(ResidencyError, match=f"needs the export policy .*; the region's is {policy.value}"):
                encode_extract(extract, policy)


def test_no_other_encoder_takes_an_extract() -> None:
    with pytest.raises(ResidencyError, match="may not be sent"):
        encode_global(SEQUENCE)  # type: ignore[arg-type]
    with pytest.raises(ResidencyError, match="may not be sent"):
        encode_regional(AGGREGATES)  # type: ignore[arg-type]


def test_nothing_else_leaves_as_an_extract() -> None:
    class Counts(GlobalMessage, frozen=True, kw_only=True):
        count: Global[int] = 0

    with pytest.raises(ResidencyError, match="central as an extract"):
        encode_extract(Counts(), ExportPolicy.PSEUDONYMOUS)  # type: ignore[arg-type]


@pytest.mark.parametrize("base", [GlobalMessage, RegionalMessage])
def test_no_message_carries_an_extract_past_the_policy(base: Any) -> None:
    namespace = {"__annotations__": {"field": Global[tuple[SequenceExtract, ...]]}, "__module__": __name__}
    with pytest.raises(ResidencyError, match="leaves by encode_extract only"):
        type(base)("Smuggler", (base,), namespace, frozen=True, kw_only=True)
    with pytest.raises(ResidencyError, match="past the export policy"):
        type(base)(
            "Both", (SequenceExtract, base), {"needs": ExportPolicy.AGGREGATES, "__module__": __name__}, frozen=True,
            kw_only=True,
        )  # fmt: skip


def test_an_extract_says_what_it_needs_and_holds_no_regional_field() -> None:
    with pytest.raises(ResidencyError, match="does not say which export policy"):

        class Silent(Extract, frozen=True, kw_only=True):
            count: Global[int]

    with pytest.raises(ResidencyError, match="is of class region"):

        class Personal(Extract, frozen=True, kw_only=True):
            needs: ClassVar[ExportPolicy] = ExportPolicy.PSEUDONYMOUS
            subject: Regional[str]


def test_an_unknown_policy_is_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'all' is no export policy: use one of none, aggregates, pseudonymous"):
        ExportPolicy.of("all")
