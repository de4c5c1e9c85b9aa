"""What an expression may cost, told from its text before it is ever run.

CEL always ends, but its macros (`all`, `exists`, ...) inside of one another multiply, and behind one another may double
what they are given: five hundred characters are enough for hours, or for all the memory that there is. So a macro may
have one other on its way, and both together may take STEPS_MAX steps.
"""

import math
import re
from dataclasses import dataclass

STEPS_MAX = 1_000
DEPTH_MAX = 2
LIST_OF_ITEM = 16
"""What a list counts as that does not stand in the expression: the categories of an item are fewer."""
_MACRO = re.compile(r"\.\s*(all|exists|exists_one|existsOne|map|filter)\s*\(")
_TEXT = re.compile(r"""[rR]?(\"\"\"(?s:.*?)\"\"\"|'''(?s:.*?)'''|"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')""")
_COMMENT = re.compile(r"//[^\n]*")
_PAIRS = {")": "(", "]": "[", "}": "{"}


@dataclass(frozen=True, slots=True)
class _Macro:
    """One call of a macro: where its receiver begins, where its dot and its brackets stand, how many turns it makes."""

    receiver: int
    dot: int
    opened: int
    closed: int
    turns: int


def excess(source: str) -> str:
    """What is too much about an expression that parses; empty when nothing is."""
    text = _COMMENT.sub(_blank, _TEXT.sub(_blank, source))
    partner = _partners(text)
    if partner is None:
        return "its brackets cannot be told apart"
    macros = [_macro(text, match, partner) for match in _MACRO.finditer(text)]
    for macro in macros:
        on_the_way = [
            one for one in macros
            if one is not macro and (one.opened < macro.dot < one.closed or macro.receiver <= one.dot < macro.dot)
        ]  # fmt: skip
        if len(on_the_way) >= DEPTH_MAX:
            return f"more than {DEPTH_MAX} of all, exists, exists_one, map and filter inside or behind one another"
        steps = math.prod(one.turns for one in (macro, *on_the_way))
        if steps > STEPS_MAX:
            return f"it may take {steps} steps for one item, and {STEPS_MAX} are allowed; shorten its lists"
    return ""


def _blank(match: re.Match[str]) -> str:
    return "_" * len(match[0])


def _partners(text: str) -> dict[int, int] | None:
    """Every bracket's other one, both ways; None where they do not match."""
    found: dict[int, int] = {}
    waiting: list[int] = []
    for place, sign in enumerate(text):
        if sign in "([{":
            waiting.append(place)
        elif sign in _PAIRS:
            if not waiting or text[waiting[-1]] != _PAIRS[sign]:
                return None
            opened = waiting.pop()
            found[opened], found[place] = place, opened
    return None if waiting else found


def _macro(text: str, match: re.Match[str], partner: dict[int, int]) -> _Macro:
    dot, opened = match.start(), match.end() - 1
    before = text[:dot].rstrip()
    literal = before.endswith("]") and _is_list(text, partner[len(before) - 1])
    turns = _elements(text, partner[len(before) - 1], partner) if literal else LIST_OF_ITEM
    return _Macro(_begin(text, dot, partner), dot, opened, partner[opened], turns)


def _is_list(text: str, opened: int) -> bool:
    """Whether a bracket begins a list, and not an index of what stands before it."""
    before = text[:opened].rstrip()
    return not before or not (before[-1].isalnum() or before[-1] in "_)]}")


def _elements(text: str, opened: int, partner: dict[int, int]) -> int:
    count, place = 1, opened + 1
    while place < partner[opened]:
        count += text[place] == ","
        place = partner[place] + 1 if text[place] in "([{" else place + 1
    return max(count, 1)


def _begin(text: str, dot: int, partner: dict[int, int]) -> int:
    """Where the expression begins that a dot stands behind: names, calls, indices and dots back from it."""
    place = dot
    while place > 0:
        sign = text[place - 1]
        if sign in _PAIRS:
            place = partner[place - 1]
        elif sign.isalnum() or sign in "_. \t\n":
            place -= 1
        else:
            break
    return place
