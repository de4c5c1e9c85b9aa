"""What may travel is decided by type: these are the ways someone could try to get around it."""

import pkgutil
from importlib import import_module
from typing import Annotated, Any

import msgspec
import pytest

import infra.contracts
from infra.contracts.events import SensitiveEvent
from infra.contracts.messages import AwayRequest, HomeRequest, RecommendationType
from infra.contracts.residency import (
    Device,
    DeviceRecord,
    Global,
    GlobalMessage,
    Regional,
    RegionalMessage,
    Residency,
    ResidencyError,
    encode_global,
    encode_regional,
    residency_of,
)


def test_a_global_message_travels():
    request = AwayRequest(type=RecommendationType.TRENDING)
    assert msgspec.json.decode(encode_global(request), type=AwayRequest) == request


def test_a_regional_message_stays_in_the_region():
    request = HomeRequest(type=RecommendationType.PERSONAL, subject="0123")
    assert b"0123" in encode_regional(request)
    with pytest.raises(ResidencyError, match="HomeRequest may not be sent to another region"):
        encode_global(request)  # type: ignore[arg-type]


def test_a_device_record_has_no_encoder():
    record = SensitiveEvent(item="1", strength=5, at_ms=0)
    for encode in (encode_regional, encode_global):
        with pytest.raises(ResidencyError):
            encode(record)  # type: ignore[arg-type]


@pytest.mark.parametrize("plain", [{"subject": "1"}, b"bytes", None])
def test_what_is_not_a_message_is_not_encoded(plain: Any):
    with pytest.raises(ResidencyError):
        encode_global(plain)


def define(base: Any, **fields: Any) -> type:
    namespace = {"__annotations__": fields, "__module__": __name__}
    metaclass: Any = type(base)
    defined: type = metaclass("Planted", (base,), namespace, frozen=True, kw_only=True)
    return defined


@pytest.mark.parametrize(
    ("base", "hint", "complaint"),
    [
        (GlobalMessage, str, "carries no residency class"),
        (RegionalMessage, str, "carries no residency class"),
        (DeviceRecord, str, "carries no residency class"),
        (GlobalMessage, Regional[str], "is of class region and would travel as global"),
        (GlobalMessage, Device[str], "is of class device and would travel as global"),
        (RegionalMessage, Device[str], "is of class device and would travel as region"),
        (GlobalMessage, Global[HomeRequest], "is global but HomeRequest holds region fields"),
        (GlobalMessage, Global[tuple[HomeRequest, ...]], "is global but HomeRequest holds region fields"),
        (GlobalMessage, Global[dict[str, HomeRequest | None]], "is global but HomeRequest holds region fields"),
        (RegionalMessage, Regional[list[SensitiveEvent]], "is region but SensitiveEvent holds device fields"),
        (GlobalMessage, Annotated[Any, Residency.GLOBAL], "cannot be checked"),
        (GlobalMessage, Global[dict[str, object]], "cannot be checked"),
    ],
)
def test_a_field_that_would_travel_too_far_cannot_be_defined(base: type, hint: Any, complaint: str):
    with pytest.raises(ResidencyError, match=complaint):
        define(base, field=hint)


def test_narrow_messages_may_hold_wider_fields():
    kind: Any = define(RegionalMessage, seen=Regional[tuple[str, ...]], shown=Global[int])
    assert residency_of(kind) == {"seen": Residency.REGION, "shown": Residency.GLOBAL}


def test_every_contract_message_has_a_class_for_every_field():
    modules = [import_module(f"infra.contracts.{m.name}") for m in pkgutil.iter_modules(infra.contracts.__path__)]
    structs = {
        value
        for module in modules
        for value in vars(module).values()
        if isinstance(value, type) and issubclass(value, msgspec.Struct) and value.__module__.startswith("infra.")
    }
    classed = {kind for kind in structs if kind.__struct_fields__}
    assert len(classed) > 15
    for kind in classed:
        assert set(residency_of(kind)) == set(kind.__struct_fields__)  # type: ignore[arg-type]
