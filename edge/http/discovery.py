"""Reading and writing calls that find one's way."""

import hashlib

from aiohttp import web
from multidict import MultiMapping

from edge.discovery.kept import Told
from edge.http.parameters import COUNTRY, LOCALE
from edge.http.reading import matching, single, whole_number
from edge.http.tags import names_tag
from infra.contracts.discovery import (
    CHOICE_CATEGORIES_MAX,
    CHOICE_ITEMS_MAX,
    QUERY_CHARACTERS_MAX,
    SUGGEST_MAX,
    ChoicesAnswer,
    ChoicesCall,
    SuggestAnswer,
    SuggestCall,
)
from infra.contracts.messages import Context
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.text import is_typed

LIFE_S = 60
DEGRADED_LIFE_S = 1


def parse_choices(parameters: MultiMapping[str]) -> ChoicesCall:
    """What is asked of `GET /v1/onboarding`.

    Raises:
        InvalidInputError: a parameter is not usable; names it.
    """
    return ChoicesCall(
        categories=_number(parameters, "categories", CHOICE_CATEGORIES_MAX, ChoicesCall().categories),
        items=_number(parameters, "items", CHOICE_ITEMS_MAX, ChoicesCall().items),
        context=parse_context(parameters),
    )


def parse_suggest(parameters: MultiMapping[str], *, subject: str | None) -> SuggestCall:
    """What is asked of `GET /v1/suggest`.

    Raises:
        InvalidInputError: a parameter is not usable; names it.
    """
    text = single(parameters, "q") or ""
    if len(text) > QUERY_CHARACTERS_MAX or not is_typed(text):
        raise InvalidInputError(
            "q is not usable.", fix=f"It has at most {QUERY_CHARACTERS_MAX} printable characters.", field="q"
        )
    n = _number(parameters, "n", SUGGEST_MAX, SuggestCall(q="").n)
    return SuggestCall(q=text, n=n, subject=subject, context=parse_context(parameters))


def parse_context(parameters: MultiMapping[str]) -> Context:
    """Language and country of a call.

    Raises:
        InvalidInputError: one of them is not usable.
    """
    country = matching(parameters, "country", COUNTRY, "DE")
    return Context(locale=matching(parameters, "locale", LOCALE, "de-DE") or "en", country=(country or "").upper())


def kept_response(
    body: bytes, told: Told[ChoicesAnswer] | Told[SuggestAnswer], *, if_none_match: str | None, personal: bool = False
) -> web.Response:
    """An answer for everybody that may be kept for a minute, or 304 to who has it; a personal one may not be kept.

    One that stands in for what could not be had says its true age, so that nobody keeps it any longer.
    """
    life_s = DEGRADED_LIFE_S if told.answer.degraded else LIFE_S
    etag = f'"{hashlib.blake2b(body, digest_size=12).hexdigest()}"'
    headers = {
        "Cache-Control": "private, no-store" if personal else f"public, max-age={life_s}",
        "Age": str(int(told.age_s)), "ETag": etag, "Vary": "Authorization, Atoll-Key, Atoll-User",
        "Cache-Status": told.cache,
    }  # fmt: skip
    if if_none_match is not None and names_tag(if_none_match, etag):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, content_type="application/json", headers=headers)


def _number(parameters: MultiMapping[str], name: str, high: int, default: int) -> int:
    text = single(parameters, name)
    return default if text is None else whole_number(text, name, 1, high)
