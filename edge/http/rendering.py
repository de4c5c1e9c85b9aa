"""Lists as HTTP answers: pages cut under the viewer's filters, ready bytes where they can be kept, honest headers."""

import hashlib
from collections.abc import Container, Iterable

import msgspec
from aiohttp import web

from edge.answering.parts import Parts, Served
from edge.cache.entry import Page
from edge.cache.filters import Slate, cut_page
from edge.cache.kept_out import is_unruled
from edge.cache.words import caller_control
from edge.calls import FILTERS_RELAXED, PAGE_MAX, SPARE_FACTOR, Caller, ListQuery, list_key
from edge.hot.ready import Offer
from edge.http.bodies import ListBody
from edge.http.cursor import item_fingerprint, next_cursor
from edge.http.tags import names_tag
from infra.contracts.messages import DegradationStep, HomeAnswer, RecommendationType, SlateItem
from infra.plumbing.errors import InvalidInputError


def list_response(
    parts: Parts, query: ListQuery, caller: Caller, served: Served, *, if_none_match: str | None
) -> web.Response:
    """The answer to one call: 200 with a page, or 304 when the caller has it.

    Raises:
        InvalidInputError: the caller has seen or excluded every item that there is.
    """
    page = _page(parts, query, caller, served)
    headers = _headers(served, page)
    if if_none_match is not None and names_tag(if_none_match, page.etag):
        parts.metrics.not_modified.inc()
        return web.Response(status=304, headers=headers)
    return web.Response(body=page.body, content_type="application/json", headers=headers)


def offer_of(parts: Parts, query: ListQuery, caller: Caller, served: Served, *, etag: str) -> Offer | None:
    """What must hold for this very answer to be given again without making it; None when it is for this call only."""
    entry = served.entry
    if entry is None or served.step is not DegradationStep.FRESH or not query.is_plain:
        return None
    if query.arm is not None:
        return None  # Who may see an arm is asked each time: the short way knows tokens, not scopes.
    epoch = parts.ledger.filter_epoch(caller.viewer)
    key = list_key(query, caller)
    if query.type is RecommendationType.SESSION or (epoch != 0 and key.subject is None):
        return None
    return Offer(
        entry=entry, key=key, withdrawn_epoch=parts.ledger.withdrawn_epoch, filter_epoch=epoch, etag=etag.encode()
    )


def _page(parts: Parts, query: ListQuery, caller: Caller, served: Served) -> Page:
    """The ready page of the entry if it has one for this size and these filters, else a new one."""
    entry = served.entry
    if entry is None or not query.is_plain:
        return _make_page(parts, query, caller, served)
    epoch = parts.ledger.filter_epoch(caller.viewer)
    key = (query.n, parts.ledger.withdrawn_epoch, epoch)
    # A list of another region, or of everybody, may stand in for one of another type: its bytes are not this call's.
    # And one from before the rules of now is cut otherwise than it was.
    if served.step is DegradationStep.FAILOVER or is_unruled(
        served.step, entry, rules_since_s=parts.ledger.rules_since_s
    ):
        return _make_page(parts, query, caller, served)
    page = entry.pages.get(key)
    if page is None:
        page = _make_page(parts, query, caller, served)
        if epoch == 0 or served.answer.personal:
            # One viewer's filters on everybody's list would push everybody's ready page out.
            entry.remember(key, page)
    return page


def page_of(parts: Parts, query: ListQuery, caller: Caller, served: Served) -> ListBody:
    """What a page says.

    Raises:
        InvalidInputError: the caller has seen or excluded every item that there is.
    """
    slate = _slate(parts, query, caller, served)
    if not slate.items and not query.shown:
        raise InvalidInputError(
            "nothing is left to show.", fix="Exclude fewer items, or begin again at the first page."
        )
    parts.metrics.filled_items.inc(slate.filled)
    answer = served.answer
    return ListBody(
        type=query.type.value, surface=query.surface.value, items=slate.items, release=answer.release,
        region=answer.region, arm=answer.arm, personal=answer.personal, generated_at_ms=answer.generated_at_ms,
        next=next_cursor(query, (item.item for item in slate.items)) if _has_more(slate, query, served) else None,
        degraded=_degraded(slate, query, answer), trace=answer.trace if query.explain else msgspec.UNSET,
    )  # fmt: skip


def _make_page(parts: Parts, query: ListQuery, caller: Caller, served: Served) -> Page:
    body = msgspec.json.encode(page_of(parts, query, caller, served))
    return Page(body, f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"')


def _slate(parts: Parts, query: ListQuery, caller: Caller, served: Served) -> Slate:
    shown = frozenset(query.shown)
    lists, ledger = parts.lists(), parts.ledger
    blocked: list[Container[str]] = [ledger.withdrawn, ledger.consumed(caller.viewer), query.exclude]
    kept_out = ledger.kept_out.on(query.surface)
    if is_unruled(served.step, served.entry, rules_since_s=ledger.rules_since_s):
        blocked.append(kept_out)

    def cut(filler: Iterable[SlateItem]) -> Slate:
        return cut_page(
            served.answer.items,
            n=query.n,
            blocked=blocked,
            is_shown=lambda item: bool(shown) and item_fingerprint(item) in shown,
            filler=(one for one in filler if one.item not in kept_out),
        )

    if query.filters is None:
        return cut(lists.filler(query) if lists is not None else ())
    # The release's lists say nothing of prices and attributes: a short page is true to the filters, and only a call
    # that would be shown nothing at all gets items that nobody checked against them.
    slate = cut(())
    return slate if slate.items or query.shown or lists is None else cut(lists.filler(query))


def _has_more(slate: Slate, query: ListQuery, served: Served) -> bool:
    """Whether another page follows: of this list, or of the longer one that the region has if this is not all of it."""
    if slate.more or slate.filled or served.step is DegradationStep.RELEASE:
        return slate.more
    asked = served.entry.asked if served.entry is not None else query.asked
    return asked < PAGE_MAX and len(served.answer.items) >= SPARE_FACTOR * asked


def _degraded(slate: Slate, query: ListQuery, answer: HomeAnswer) -> tuple[str, ...]:
    if query.filters is None or not slate.filled or FILTERS_RELAXED in answer.degraded:
        return answer.degraded
    return (*answer.degraded, FILTERS_RELAXED)


def _headers(served: Served, page: Page) -> dict[str, str]:
    return {
        "ETag": page.etag,
        "Age": str(int(served.age_s)),
        "Cache-Control": caller_control(served.answer, fresh_for_s=served.fresh_for_s, age_s=served.age_s),
        "Vary": "Authorization, Atoll-Session, Atoll-User-Vector, Atoll-Key, Atoll-User",
        "Cache-Status": served.cache,
        "Atoll-Step": served.step.value,
        "Atoll-Release": served.answer.release,
        "Atoll-Region": served.answer.region,
    }
