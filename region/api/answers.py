"""Answers as HTTP: how long they may live, and a tag that changes only when the list does."""

import hashlib

import msgspec
from aiohttp import web

from infra.contracts.messages import AwayAnswer, HomeAnswer, Lifetime
from infra.contracts.residency import encode_global, encode_regional


def home_response(answer: HomeAnswer, *, if_none_match: str | None) -> web.Response:
    """The home region's answer; 304 when the asker holds the same list."""
    scope = "private" if answer.personal else "public"
    return _response(encode_regional(answer), answer, scope, if_none_match)


def away_response(answer: AwayAnswer, *, if_none_match: str | None) -> web.Response:
    """The answer to another region; only the global encoder can write it. With a vector it is not to be kept."""
    scope = "no-store" if answer.used_vector else "public"
    return _response(encode_global(answer), answer, scope, if_none_match)


def entity_tag(answer: HomeAnswer | AwayAnswer) -> str:
    """A strong tag of what the list says: items, release, version; not when or how quickly it was made."""
    version = answer.subject_version if isinstance(answer, HomeAnswer) else 0
    content = msgspec.json.encode((answer.items, answer.release, version, answer.degraded))
    return f'"{hashlib.blake2b(content, digest_size=10).hexdigest()}"'


def cache_control(scope: str, lifetime: Lifetime) -> str:
    """RFC 9111 and RFC 5861 directives in whole seconds."""
    if scope == "no-store":
        return scope
    return (
        f"{scope}, max-age={int(lifetime.max_age_s)}, "
        f"stale-while-revalidate={int(lifetime.stale_while_revalidate_s)}, "
        f"stale-if-error={int(lifetime.stale_if_error_s)}"
    )


def _response(
    body: bytes, answer: HomeAnswer | AwayAnswer, scope: str, if_none_match: str | None
) -> web.Response:  # fmt: skip
    tag = entity_tag(answer)
    headers = {"Cache-Control": cache_control(scope, answer.lifetime), "ETag": tag, "Atoll-Release": answer.release}
    if if_none_match is not None and tag in (part.strip() for part in if_none_match.split(",")):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type="application/json", headers=headers)
