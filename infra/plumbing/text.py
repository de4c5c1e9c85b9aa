"""Text as people search for it: without case, accents and widths, so that what is typed finds what is written."""

import unicodedata

_ACCENTS = dict.fromkeys(range(768, 880))
"""Combining marks of Latin, Greek and Cyrillic; those of kana tell letters apart and stay."""
_KATAKANA = {code: code - 0x60 for code in range(0x30A1, 0x30F7)}
"""To hiragana, which is what is typed first."""
_NOT_TYPED = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNING = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
"""Turn the order of what stands beside them: a line that shows such a text does not show what it says."""
_ASCII_MARKS = {ord(mark): " " for mark in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~"}


def is_typed(text: str) -> bool:
    """Whether people may have written `text` on one line: no control character, no line's end, no turned order.

    More than `str.isprintable`, which refuses the wide blank between Japanese words (U+3000), the joiners inside
    Persian words and families of emoji (U+200C, U+200D), the blank that does not break, and whatever came into Unicode
    after this Python.
    """
    if text.isprintable():
        return True
    return all(unicodedata.category(mark) not in _NOT_TYPED and mark not in _TURNING for mark in text)


def folded(text: str) -> str:
    """`text` in one form: words in lower case with single blanks between them."""
    if not text.isascii():
        parts = unicodedata.normalize("NFKD", text).translate(_ACCENTS)
        text = unicodedata.normalize("NFC", parts).translate(_KATAKANA).casefold()
        text = "".join(" " if unicodedata.category(mark)[0] in "PSZC" else mark for mark in text)
    return " ".join(text.lower().translate(_ASCII_MARKS).split())


def lacks_words(text: str) -> bool:
    """Whether something was typed and none of it can be searched for: emoji, say, or marks."""
    return bool(text.strip()) and not folded(text)


def word_starts(text: str, *, limit: int) -> list[str]:
    """`text` (folded) from each of its first `limit` words on: what a prefix may match."""
    found, place = [text], text.find(" ")
    while place >= 0 and len(found) < limit:
        found.append(text[place + 1 :])
        place = text.find(" ", place + 1)
    return found
