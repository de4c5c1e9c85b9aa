"""Reasons in the caller's language."""

import pytest

from infra.contracts.messages import ReasonCode
from infra.contracts.reasons import languages, reason


@pytest.mark.parametrize("language", ["en", "es", "de", "ja"])
def test_every_code_has_its_sentence_in_every_language(language: str) -> None:
    assert language in languages()
    for code in ReasonCode:
        said = reason(code, "Heat {0}", locale=language)
        assert said.code is code
        assert "{anchor}" not in said.text
        assert language == "en" or said.text != reason(code, "Heat {0}").text


def test_a_region_of_a_language_has_its_language_and_others_have_english() -> None:
    assert reason(ReasonCode.POPULAR, locale="de-AT").text == reason(ReasonCode.POPULAR, locale="de").text
    assert reason(ReasonCode.POPULAR, locale="tlh").text == reason(ReasonCode.POPULAR).text
    assert reason(ReasonCode.SIMILAR_ITEM, "Heat", locale="es").text == "Parecido a Heat"
    assert reason(ReasonCode.SIMILAR_ITEM, locale="en").text == "Similar to what you chose"
