"""Headers of a proxied call: what belongs to one connection stays there (RFC 9110, 7.6.1), `Via` is added."""

from collections.abc import Iterable, Mapping

from multidict import CIMultiDict

VIA = "1.1 atoll-balancer"
_HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te", "trailer",
        "transfer-encoding", "upgrade",
    }
)  # fmt: skip


def end_to_end(headers: Iterable[tuple[str, str]], *, also: frozenset[str] = frozenset()) -> CIMultiDict[str]:
    """`headers` without those of the connection, without those that `Connection` names, and without `also`."""
    pairs = list(headers)
    dropped = _HOP_BY_HOP | also | _named_by_connection(pairs)
    return CIMultiDict((name, value) for name, value in pairs if name.lower() not in dropped)


def add_via(headers: CIMultiDict[str]) -> None:
    """Append this hop to `Via` (RFC 9110, 7.6.3)."""
    earlier = headers.getall("Via", [])
    headers["Via"] = ", ".join([*earlier, VIA])


def body_length(headers: Mapping[str, str]) -> int | None:
    """The announced length of a body; None when there is none or it is not a number."""
    text = headers.get("Content-Length", "")
    return int(text) if text.isascii() and text.isdigit() else None


def _named_by_connection(pairs: Iterable[tuple[str, str]]) -> set[str]:
    return {
        token.strip().lower()
        for name, value in pairs
        if name.lower() == "connection"
        for token in value.split(",")
        if token.strip()
    }
