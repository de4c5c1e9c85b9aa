"""Reading requests: the bad-input list. Every refusal says what is allowed and repeats nothing."""

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from multidict import CIMultiDict, MultiDict

from edge.calls import Caller, ListQuery, list_key
from edge.http.query import decode_vector, parse_deadline_ms, parse_list_query
from infra.contracts.messages import Context, RecommendationType, Surface
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import encode_base64url
from tests.unit.edge.fakes import vector_header

RELEASE = "0123456789abcdef0123"


def parse(type_name: str, pairs: list[tuple[str, str]], headers: dict[str, str] | None = None) -> ListQuery:
    return parse_list_query(type_name, MultiDict(pairs), CIMultiDict(headers or {}), dim=4)


BAD: list[tuple[str, list[tuple[str, str]], str]] = [
    ("nonsense", [], "Allowed are: personal, similar, trending, popular, session"),
    ("popular", [("n", "0")], "from 1 to 100"),
    ("popular", [("n", "1000000000")], "from 1 to 100"),
    ("popular", [("n", "101")], "from 1 to 100"),
    ("popular", [("n", "-5")], "from 1 to 100"),
    ("popular", [("n", "1e2")], "from 1 to 100"),
    ("popular", [("n", "١٢")], "from 1 to 100"),
    ("popular", [("n", "")], "from 1 to 100"),
    ("popular", [("n", "5"), ("n", "6")], "more than once"),
    ("popular", [("surface", "billboard")], "Allowed are: home, detail, cart, email, feed"),
    ("popular", [("cursor", "zzzz")], "not one that this service gave out"),
    ("popular", [("cursor", "<script>")], "not one that this service gave out"),
    ("popular", [("cursor", "")], "not one that this service gave out"),
    ("popular", [("unknown", "x")], "Known are: n, surface"),
    ("popular", [("item", "x")], "allowed for no other type"),
    ("similar", [], "required for types similar"),
    ("similar", [("item", "x" * 129)], "1 to 128 printable"),
    ("similar", [("item", "a\x00b")], "1 to 128 printable"),
    ("similar", [("item", "\udcff")], "1 to 128 printable"),
    ("similar", [("item", "")], "1 to 128 printable"),
    ("popular", [("category", "\n")], "1 to 128 printable"),
    ("popular", [("exclude", ",".join(str(i) for i in range(201)))], "At most 200"),
    ("popular", [("exclude", "x" * 200)], "1 to 128 printable"),
    ("session", [("recent", ",".join(str(i) for i in range(51)))], "At most 50"),
    ("popular", [("recent", "a")], "type session only"),
    ("popular", [("locale", "english please")], "like `en`"),
    ("popular", [("explain", "yes")], "0 or 1"),
]


@pytest.mark.parametrize(("type_name", "pairs", "says"), BAD)
def test_bad_input_is_refused_with_what_is_allowed(type_name: str, pairs: list[tuple[str, str]], says: str) -> None:
    with pytest.raises(InvalidInputError) as caught:
        parse(type_name, pairs)
    assert says in str(caught.value)
    for _, value in pairs:
        assert len(value) < 4 or value not in str(caught.value)


@pytest.mark.parametrize(
    ("vector", "release", "says"),
    [
        (vector_header(1, 2, 3, math.nan), RELEASE, "not finite"),
        (vector_header(1, 2, 3, math.inf), RELEASE, "not finite"),
        (vector_header(1, 2, 3), RELEASE, "wrong size"),
        (encode_base64url(b"12345"), RELEASE, "wrong size"),
        ("", RELEASE, "wrong size"),
        ("!!!!", RELEASE, "not base64url"),
        ("\udcff", RELEASE, "not base64url"),
        (vector_header(1, 2, 3, 4), "", "Atoll-Vector-Release"),
        (vector_header(1, 2, 3, 4), None, "Atoll-Vector-Release"),
    ],
)
def test_bad_vectors_are_refused(vector: str, release: str | None, says: str) -> None:
    headers = {"Atoll-User-Vector": vector} | ({"Atoll-Vector-Release": release} if release is not None else {})
    with pytest.raises(InvalidInputError, match=says):
        parse("personal", [], headers)


def test_a_full_query() -> None:
    query = parse(
        "session",
        [("n", "7"), ("surface", "feed"), ("category", "drama"), ("exclude", "a,b"), ("exclude", "c"),
         ("recent", "x,y"), ("locale", "pt-BR"), ("explain", "1")],
        {"Atoll-User-Vector": vector_header(1, 2, 3, 4), "Atoll-Vector-Release": RELEASE},
    )  # fmt: skip
    assert query == ListQuery(
        type=RecommendationType.SESSION, surface=Surface.FEED, n=7, category="drama", exclude=frozenset("abc"),
        recent=("x", "y"), context=Context(locale="pt-BR"), explain=True, vector=(1, 2, 3, 4), vector_release=RELEASE,
    )  # fmt: skip
    assert not query.is_plain


@given(st.lists(st.floats(width=32), min_size=1, max_size=40))
def test_vectors_survive_or_are_refused(values: list[float]) -> None:
    text = vector_header(*values)
    if all(math.isfinite(value) for value in values):
        assert decode_vector(text, dim=None) == tuple(values)
    else:
        with pytest.raises(InvalidInputError):
            decode_vector(text, dim=None)
    assert len(struct.pack(f"<{len(values)}f", *values)) == 4 * len(values)


@given(st.integers(1, 100), st.integers(0, 200), st.integers(0, 200))
def test_the_page_size_asked_for_is_one_of_few_and_large_enough(n: int, excluded: int, shown: int) -> None:
    query = ListQuery(
        type=RecommendationType.POPULAR, n=n, exclude=frozenset(map(str, range(excluded))), shown=tuple(range(shown))
    )
    assert query.asked in (10, 25, 50, 100)
    assert query.asked >= n
    assert query.asked == 100 or 3 * query.asked >= query.items_wanted


def test_deadlines_are_bounded() -> None:
    assert parse_deadline_ms(None, deadline_ms_max=150) == 150
    assert parse_deadline_ms("40", deadline_ms_max=150) == 40
    assert parse_deadline_ms("999999999", deadline_ms_max=150) == 150
    for bad in ("-1", "soon", "1.5", "", "9" * 20):
        with pytest.raises(InvalidInputError):
            parse_deadline_ms(bad, deadline_ms_max=150)


def test_only_personal_and_session_lists_belong_to_somebody() -> None:
    caller = Caller(subject="u", session="s")
    owners = {kind: list_key(ListQuery(type=kind), caller).subject for kind in RecommendationType}
    assert owners == {
        **dict.fromkeys(RecommendationType),
        RecommendationType.PERSONAL: "u",
        RecommendationType.SESSION: "s",
    }
    assert caller.viewer == "u"
