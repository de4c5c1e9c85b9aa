"""Calls as data: what is sent for each, and what an answer says. Pure."""

import base64
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote

import msgspec

from edge.client.types import Event, ListBody, ListPage

Token = str | Callable[[], str] | None
"""A token, or what gives the current one; it is asked again once when the edge refuses the one it gave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """Who calls: an end user (token), a service (key) for a user, or an anonymous session."""

    token: Token = None
    key: str | None = None
    user: str | None = None
    session: str | None = None

    def headers(self) -> dict[str, str]:
        """What says so to the edge."""
        token = self.token() if callable(self.token) else self.token
        named = {"Atoll-Key": self.key, "Atoll-User": self.user, "Atoll-Session": self.session}
        headers = {name: value for name, value in named.items() if value is not None}
        return headers | ({"Authorization": f"Bearer {token}"} if token is not None else {})


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """One call. `cacheable`: its answer may be held and confirmed by its tag."""

    method: str
    path: str
    params: Sequence[tuple[str, str]] = ()
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes | None = None
    cacheable: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What came back: any status, header names in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def list_call(
    kind: str,
    *,
    cursor: str | None = None,
    vector: Sequence[float] | None = None,
    vector_release: str | None = None,
    **options: Any,
) -> Call:
    """A call for a page of a list. `options` are the query parameters of the API, lists as sequences of text."""
    params = [pair for name, value in options.items() for pair in _pairs(name, value)]
    if cursor is not None:
        params.append(("cursor", cursor))
    headers = {}
    if vector is not None:
        headers = {"Atoll-User-Vector": encode_vector(vector), "Atoll-Vector-Release": vector_release or ""}
    plain = cursor is None and vector is None and not options.get("explain")
    return Call(method="GET", path=f"/v1/recommendations/{kind}", params=params, headers=headers, cacheable=plain)


def events_call(events: Iterable[Event]) -> Call:
    """A call with events."""
    return Call(method="POST", path="/v1/events", body=msgspec.json.encode({"events": list(events)}))


def suggest_call(q: str, **options: Any) -> Call:
    """What a few letters may mean."""
    params = [("q", q), *(pair for name, value in options.items() for pair in _pairs(name, value))]
    return Call(method="GET", path="/v1/suggest", params=params)


def choices_call(**options: Any) -> Call:
    """What somebody new may choose from."""
    params = [pair for name, value in options.items() for pair in _pairs(name, value)]
    return Call(method="GET", path="/v1/onboarding", params=params)


def onboarding_call(**chosen: Sequence[str]) -> Call:
    """What somebody new chose."""
    body = {name: list(names) for name, names in chosen.items()}
    return Call(method="POST", path="/v1/onboarding", body=msgspec.json.encode(body))


def opt_out_call(*, opted_out: bool) -> Call:
    """The caller's choice about personal lists."""
    return Call(method="PUT", path="/v1/privacy/opt-out", body=msgspec.json.encode({"opted_out": opted_out}))


def why_call(item: str, *, locale: str) -> Call:
    """Why the caller sees an item."""
    return Call(method="GET", path=f"/v1/privacy/why/{quote(item, safe='')}", params=[("locale", locale)])


def export_call() -> Call:
    """What the caller's home region has of them."""
    return Call(method="GET", path="/v1/privacy/export")


def erase_call() -> Call:
    """Forget the caller."""
    return Call(method="DELETE", path="/v1/privacy/me")


def bulk_call(users: Iterable[str], **options: Any) -> Call:
    """Lists for many users."""
    lines = b"".join(msgspec.json.encode({"user": user, **options}) + b"\n" for user in users)
    return Call(method="POST", path="/v1/bulk/recommendations", body=lines)


def page_of(reply: Reply, *, from_cache: bool = False) -> ListPage:
    """The page that an answer holds; raises `msgspec.DecodeError` for one that is not ours."""
    body = msgspec.json.decode(reply.body, type=ListBody)
    age = reply.headers.get("age", "0")
    return ListPage(
        items=body.items, step=reply.headers.get("atoll-step", ""), release=body.release, region=body.region,
        arm=body.arm, personal=body.personal, next=body.next, degraded=body.degraded, trace=body.trace,
        request_id=reply.headers.get("atoll-request-id", ""), age_s=int(age) if age.isdigit() else 0,
        from_cache=from_cache,
    )  # fmt: skip


def encode_vector(values: Sequence[float]) -> str:
    """A user vector as `Atoll-User-Vector` wants it: float32, little endian, base64url without padding."""
    return base64.urlsafe_b64encode(struct.pack(f"<{len(values)}f", *values)).rstrip(b"=").decode()


def _pairs(name: str, value: Any) -> list[tuple[str, str]]:
    if value is None:
        return []
    if isinstance(value, bool):
        return [(name, "1" if value else "0")]
    if isinstance(value, str | int | float):
        return [(name, str(value))]
    if name == "attribute":
        return [(name, str(part)) for part in value]
    return [(name, ",".join(str(part) for part in value))] if value else []
