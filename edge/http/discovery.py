"""Reading and writing calls that find one's way."""

from aiohttp import web
from multidict import MultiMapping

from edge.http.parameters import COUNTRY, LOCALE
from edge.http.reading import matching, single, whole_number
from infra.contracts.discovery import (
    CHOICE_CATEGORIES_MAX,
    CHOICE_ITEMS_MAX,
    QUERY_CHARACTERS_MAX,
    SUGGEST_MAX,
    ChoicesCall,
    SuggestCall,
)
from infra.contracts.messages import Context
from infra.plumbing.errors import InvalidInputError

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
    if len(text) > QUERY_CHARACTERS_MAX or not (text.isprintable() or not text):
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


def kept_response(body: bytes, *, age_s: float, degraded: tuple[str, ...], personal: bool = False) -> web.Response:
    """An answer for everybody that may be kept for a minute; a personal one may not."""
    life_s = DEGRADED_LIFE_S if degraded else LIFE_S
    control = "private, no-store" if personal else f"public, max-age={life_s}"
    headers = {"Cache-Control": control, "Age": str(int(age_s)), "Vary": "Authorization, Atoll-Key, Atoll-User"}
    return web.Response(body=body, content_type="application/json", headers=headers)


def _number(parameters: MultiMapping[str], name: str, high: int, default: int) -> int:
    text = single(parameters, name)
    return default if text is None else whole_number(text, name, 1, high)
