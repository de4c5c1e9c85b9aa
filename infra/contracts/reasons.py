"""Reason codes put into the caller's language; the sentences are data (`reasons.toml`)."""

import tomllib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from infra.contracts.messages import Reason, ReasonCode

FALLBACK = "en"
_UNNAMED = "unnamed"


@cache
def _catalogue() -> Mapping[str, Mapping[str, str]]:
    """Sentences by language and code; read once.

    Raises:
        KeyError: English lacks a code, so the installation is not whole.
    """
    sentences: dict[str, dict[str, str]] = tomllib.loads(Path(__file__).with_suffix(".toml").read_text("utf-8"))
    english = sentences[FALLBACK]
    for code in (*(member.value for member in ReasonCode), _UNNAMED):
        if code not in english:
            raise KeyError(code)
    return {language: {**english, **own} for language, own in sentences.items()}


def languages() -> tuple[str, ...]:
    """Languages that there are sentences in."""
    return tuple(_catalogue())


def language_of(locale: str) -> str:
    """The language that sentences for `locale` are in."""
    language = locale.partition("-")[0].lower()
    return language if language in _catalogue() else FALLBACK


def reason(code: ReasonCode, anchor: str = "", *, locale: str = FALLBACK) -> Reason:
    """The reason with its sentence.

    Args:
        code: why.
        anchor: the title, category or word that the sentence names.
        locale: the caller's language tag; its language counts, and English stands in for one that is not there.
    """
    sentences = _catalogue()[language_of(locale)]
    return Reason(code=code, text=sentences[code.value].replace("{anchor}", anchor or sentences[_UNNAMED]))
