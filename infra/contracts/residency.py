"""Residency classes: how far a field may travel, held by type, at definition and at run time.

Three classes, from the narrowest to the widest (MISSION F1):

* ``device``: never serialised off the phone. A `DeviceRecord` has no encoder in this project's wire code.
* ``region``: never leaves the home region. A `RegionalMessage` may hold ``region`` and ``global`` fields.
* ``global``: may be sent to any region and to central. A `GlobalMessage` holds nothing else, all the way down.

A message class whose field carries no residency class does not start: the check runs when the class is defined.
The only encoder towards another region or central is `encode_global`; it takes a `GlobalMessage` by type, and
refuses anything else at run time with `ResidencyError`.

What is made from many people's data for central to learn from is an `Extract`: its fields are ``global``, but it is no
`GlobalMessage`, so by type `encode_global` does not take it, and no `GlobalMessage` may hold one. Its one encoder is
`encode_extract`, which asks for the region's `ExportPolicy`.
"""

import enum
import types
import typing
from typing import Annotated, Any, TypeVar

import msgspec

T = TypeVar("T")


class Residency(enum.IntEnum):
    """Width of travel; a wider class may be put into a narrower message, never the other way."""

    DEVICE = 0
    REGION = 1
    GLOBAL = 2


Device = Annotated[T, Residency.DEVICE]
Regional = Annotated[T, Residency.REGION]
Global = Annotated[T, Residency.GLOBAL]

# Leaves that may stand inside a classed field. `Any` is left out: what cannot be checked cannot be sent.
_LEAVES: frozenset[Any] = frozenset({str, int, float, bool, bytes, type(None), msgspec.Raw, msgspec.UnsetType})


class ExportPolicy(enum.StrEnum):
    """What a region lets out for central to learn from; each allows what stands before it.

    Sums of federated rounds have budgets of their own and leave under all three.
    """

    NONE = "none"
    AGGREGATES = "aggregates"
    """Counts of items and of pairs, with noise, above a least number of people."""
    PSEUDONYMOUS = "pseudonymous"
    """Histories of who has not opted out, under keys that the region changes and keeps."""

    def allows(self, needed: "ExportPolicy") -> bool:
        """Whether an extract that needs `needed` may be made and encoded."""
        order = tuple(ExportPolicy)
        return needed is not ExportPolicy.NONE and order.index(needed) <= order.index(self)

    @classmethod
    def of(cls, text: str) -> "ExportPolicy":
        """The policy of that name.

        Raises:
            ValueError: there is none; says which there are.
        """
        try:
            return cls(text)
        except ValueError:
            names = ", ".join(policy.value for policy in cls)
            raise ValueError(f"{text!r} is no export policy: use one of {names}") from None


class ResidencyError(TypeError):
    """A field would travel further than its class allows, or has no class at all."""


def _is_class_variable(hint: Any) -> bool:
    return typing.get_origin(hint) is typing.ClassVar


def _class_of(hint: Any) -> Residency:
    if typing.get_origin(hint) is Annotated:
        for extra in typing.get_args(hint)[1:]:
            if isinstance(extra, Residency):
                return extra
    raise ResidencyError(f"{hint!r} carries no residency class")


def _check_field(owner: str, name: str, hint: Any, narrowest: Residency) -> None:
    try:
        residency = _class_of(hint)
    except ResidencyError:
        raise ResidencyError(
            f"{owner}.{name} carries no residency class; annotate it as Device[...], Regional[...] or Global[...]"
        ) from None
    if residency < narrowest:
        raise ResidencyError(
            f"{owner}.{name} is of class {residency.name.lower()} and would travel as {narrowest.name.lower()}"
        )
    for inner in _types_inside(hint):
        _check_inner(owner, name, inner, residency)


def _check_holds_no_extract(cls: type) -> None:
    for name, hint in typing.get_type_hints(cls, include_extras=True).items():
        for inner in _types_inside(hint) if not _is_class_variable(hint) else ():
            if isinstance(inner, type) and issubclass(inner, Extract):
                raise ResidencyError(f"{cls.__name__}.{name} holds an extract, which leaves by encode_extract only")


def _check_inner(owner: str, name: str, inner: Any, residency: Residency) -> None:
    if isinstance(inner, type) and issubclass(inner, msgspec.Struct):
        held = getattr(inner, "_narrowest", Residency.DEVICE)
        if held < residency:
            raise ResidencyError(
                f"{owner}.{name} is {residency.name.lower()} but {inner.__name__} holds {held.name.lower()} fields"
            )
    elif inner not in _LEAVES and not (isinstance(inner, type) and issubclass(inner, enum.Enum)):
        raise ResidencyError(f"{owner}.{name} holds {inner!r}, whose residency cannot be checked")


def _types_inside(hint: Any) -> typing.Iterator[Any]:
    """Every leaf and message type inside `hint`, through containers, unions and annotations."""
    origin = typing.get_origin(hint)
    if origin is Annotated:
        yield from _types_inside(typing.get_args(hint)[0])
    elif origin is typing.Literal:
        yield str
    elif origin in (typing.Union, types.UnionType) or origin in (tuple, list, dict, frozenset, set):
        for argument in typing.get_args(hint):
            if argument is not Ellipsis:
                yield from _types_inside(argument)
    else:
        yield hint


class _Classed(msgspec.Struct, frozen=True, kw_only=True):
    """Base that checks every field of every subclass when the subclass is defined."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        narrowest = getattr(cls, "_narrowest", Residency.DEVICE)
        for name, hint in typing.get_type_hints(cls, include_extras=True).items():
            if not _is_class_variable(hint):
                _check_field(cls.__name__, name, hint, narrowest)
        if not hasattr(cls, "needs"):
            _check_holds_no_extract(cls)


class DeviceRecord(_Classed, frozen=True, kw_only=True):
    """What only the phone may hold. There is no wire encoder for it."""

    _narrowest: typing.ClassVar[Residency] = Residency.DEVICE


class Extract(_Classed, frozen=True, kw_only=True):
    """What central may learn from, made from many people's data: leaves under the region's export policy only."""

    _narrowest: typing.ClassVar[Residency] = Residency.GLOBAL
    needs: typing.ClassVar[ExportPolicy] = ExportPolicy.NONE
    """The narrowest policy that lets it out; every class says its own."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if issubclass(cls, RegionalMessage | DeviceRecord):
            raise ResidencyError(f"{cls.__name__} is an extract and a message: it would leave past the export policy")
        if cls.__dict__.get("needs", ExportPolicy.NONE) is ExportPolicy.NONE:
            raise ResidencyError(f"{cls.__name__} does not say which export policy it needs: set needs")


class RegionalMessage(_Classed, frozen=True, kw_only=True):
    """What the home region's own processes may say to each other."""

    _narrowest: typing.ClassVar[Residency] = Residency.REGION


class GlobalMessage(RegionalMessage, frozen=True, kw_only=True):
    """What may be said to another region, to central, to anyone."""

    _narrowest: typing.ClassVar[Residency] = Residency.GLOBAL


def encode_regional(message: RegionalMessage) -> bytes:
    """JSON bytes for a process of the same region.

    Raises:
        ResidencyError: `message` is not a `RegionalMessage` (a `DeviceRecord`, say).
    """
    _require(message, RegionalMessage, "the region")
    return msgspec.json.encode(message)


def pack_regional(message: RegionalMessage) -> bytes:
    """MessagePack bytes for a process of the same region: bytes inside stay bytes.

    Raises:
        ResidencyError: `message` is not a `RegionalMessage` (a `DeviceRecord`, say).
    """
    _require(message, RegionalMessage, "the region")
    return msgspec.msgpack.encode(message)


def encode_global(message: GlobalMessage) -> bytes:
    """JSON bytes for another region or for central.

    Raises:
        ResidencyError: `message` is not a `GlobalMessage`.
    """
    _require(message, GlobalMessage, "another region or central")
    return msgspec.json.encode(message)


def encode_extract(extract: Extract, policy: ExportPolicy) -> bytes:
    """JSON bytes for central, if the region's policy lets them out.

    Raises:
        ResidencyError: `extract` is not an `Extract`, or the policy does not allow its kind.
    """
    _require(extract, Extract, "central as an extract")
    if not policy.allows(extract.needs):
        raise ResidencyError(
            f"{type(extract).__name__} needs the export policy {extract.needs.value}; the region's is {policy.value}"
        )
    return msgspec.json.encode(extract)


def residency_of(message_type: type[_Classed]) -> dict[str, Residency]:
    """Residency class of each field of `message_type`, by field name."""
    hints = typing.get_type_hints(message_type, include_extras=True)
    return {name: _class_of(hint) for name, hint in hints.items() if not _is_class_variable(hint)}


def _require(message: object, wanted: type, destination: str) -> None:
    if not isinstance(message, wanted):
        raise ResidencyError(
            f"{type(message).__name__} may not be sent to {destination}: it is not a {wanted.__name__}. "
            "Build a message of that kind from the fields that may travel."
        )
