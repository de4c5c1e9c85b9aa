"""Heads that are known: bounded, forgotten in time, and nothing moves that their next answer does not heed."""

import pytest

from edge.app import HOT_PATH
from edge.hot.heads import TAIL, lasting_end
from edge.hot.known import HEAD_OVERHEAD_BYTES, TURN_S, UNLINKED, Head, KnownHeads
from edge.hot.path import HotPath
from edge.hot.protocol import HotHandler
from edge.hot.ready import NOTHING
from infra.contracts.messages import Invalidation, Lifetime
from infra.plumbing.clock import SystemClock
from tests.unit.edge.conftest import Client, World
from tests.unit.edge.raw import head, wire
from tests.unit.edge.test_api import tell
from tests.unit.edge.test_hot_path import PERSONAL, POPULAR, line_of, warmed

PEER = "10.0.0.1"
FROM = "X-Forwarded-For: 10.1.1.1"


def known(subject: str | None = None) -> Head:
    return Head(b"/v1/recommendations/popular", NOTHING, subject=subject, caller=subject, expires_s=1.0)


def test_what_is_not_sent_again_goes_and_what_is_stays() -> None:
    heads = KnownHeads()
    heads.tick(0.0)
    heads.remember(b"often", known())
    heads.remember(b"once", known())
    for turn in range(1, 5):
        heads.tick(turn * TURN_S - 1.0)
        assert heads.young.get(b"often") or heads.older(b"often")
        heads.tick(turn * TURN_S)
    assert heads.young.get(b"once") is None
    assert heads.older(b"once") is None
    assert len(heads) == 1


def test_it_is_bounded_by_bytes() -> None:
    bytes_max = 100 * (10 + HEAD_OVERHEAD_BYTES)
    heads = KnownHeads(bytes_max=bytes_max)
    for number in range(1000):
        heads.remember(b"%010d" % number, known())
        assert heads.size_bytes <= bytes_max
    assert 40 <= len(heads) <= 100


def test_what_was_heard_of_a_subject_reaches_its_heads_of_both_generations() -> None:
    heads = KnownHeads()
    heads.tick(0.0)
    mine, other = [known("me"), known("me")], known("you")
    heads.remember(b"mine", mine[0])
    heads.tick(TURN_S)
    heads.remember(b"mine too", mine[1])
    heads.remember(b"yours", other)
    for one in (*mine, other):
        one.generation = 7
    heads.unlink("me")
    assert [one.generation for one in (*mine, other)] == [UNLINKED, UNLINKED, 7]
    heads.clear()
    assert not len(heads)


@pytest.mark.parametrize(
    ("lines", "lasting"),
    [
        (("Accept: */*", FROM), "Accept: */*"), (("Authorization: Bearer x", "Accept: a"), "Authorization: Bearer x"),
        (("Accept: a",), "Accept: a"), (("Authorization: Bearer x", FROM, "Accept: a"), "Authorization: Bearer x"),
    ],
)  # fmt: skip
def test_where_a_head_s_lasting_part_ends(lines: tuple[str, ...], lasting: str) -> None:
    data = head(POPULAR, *lines)
    assert data[: lasting_end(data)].endswith(lasting.encode())


@pytest.mark.parametrize(
    ("tail", "tags"),
    [
        (b"\r\n\r\n", None), (b"\r\nX-Forwarded-For: 10.0.0.1, ::1\r\n\r\n", None),
        (b'\r\nX-Forwarded-For: 1\r\nX-Forwarded-Proto: https\r\nIf-None-Match: "a"\r\n\r\n', b'"a"'),
    ],
)  # fmt: skip
def test_what_stands_behind_it_mostly(tail: bytes, tags: bytes | None) -> None:
    found = TAIL(tail)
    assert found is not None
    assert found[1] == tags


@pytest.mark.parametrize(
    "tail",
    [
        b"\r\nX-Forwarded-For: a\n\r\n\r\n", b"\r\nX-Forwarded-For: a\r\n\r\nG", b"\r\nX-Forwarded-For: \r\n\r\n",
        b"\r\nX-Forwarded-For: a\r\nContent-Length: 1\r\n\r\n", b"\r\nX-Forwarded-For: a\r\n", b"\r\n",
        b"\r\nX-Forwarded-For: a\x00b\r\n\r\n", b"\r\nX-Forwarded-For: " + b"a" * 300 + b"\r\n\r\n",
        b"\r\nIf-None-Match: a\r\nIf-None-Match: a\r\n\r\n", b"\r\nx-forwarded-for: a\r\n\r\n", b"",
    ],
)  # fmt: skip
def test_everything_else_is_read(tail: bytes) -> None:
    assert TAIL(tail) is None


@pytest.fixture
async def warm(world: World) -> tuple[Client, HotPath, str]:
    """An edge that knows alice's head, her personal list and the popular one."""
    world.home.lifetime = Lifetime(max_age_s=3600.0, stale_while_revalidate_s=0.0, stale_if_error_s=0.0)
    client = await world.edge()
    shown = world.token()
    await warmed(client, PERSONAL, **shown)
    await warmed(client, POPULAR)
    hot = client.server.app[HOT_PATH]  # type: ignore[attr-defined]
    return client, hot, line_of(shown)


Warm = tuple[Client, HotPath, str]


def asked(hot: HotPath, *lines: str, target: str = PERSONAL) -> bytes | None:
    """What the hot path says to a head of these lines the second time, when it knows it."""
    data = head(target, *lines)
    hot.answer(data, PEER)
    return hot.answer(data, PEER)


def must_be_read(hot: HotPath, data: bytes) -> bool:
    return hot.known.young.get(data[: lasting_end(data)]) is None


async def test_a_head_is_read_once(warm: Warm) -> None:
    _, hot, token = warm
    data = head(PERSONAL, token, FROM)
    assert must_be_read(hot, data)
    assert hot.answer(data, PEER)
    assert not must_be_read(hot, head(PERSONAL, token, "X-Forwarded-For: 10.9.9.9", 'If-None-Match: "x"'))
    answer = hot.answer(head(PERSONAL, token, "X-Forwarded-For: 10.9.9.9", "If-None-Match: *"), PEER)
    assert answer is not None
    assert answer.startswith(b"HTTP/1.1 304 ")
    assert answer.endswith(b"\r\n\r\n")


async def test_a_tag_in_front_of_what_the_balancer_adds_counts(warm: Warm) -> None:
    _, hot, token = warm
    for _ in range(2):
        short = hot.answer(head(PERSONAL, token, "If-None-Match: *", FROM), PEER)
        full = hot.answer(head(PERSONAL, token, 'If-None-Match: "other"', FROM), PEER)
        assert short is not None
        assert full is not None
        assert (short[9:12], full[9:12]) == (b"304", b"200")
        assert hot.answer(head(PERSONAL, token, "If-None-Match: *", FROM, "If-None-Match: *"), PEER) is None


async def test_unusual_ends_of_a_known_head_are_read(warm: Warm) -> None:
    _, hot, token = warm
    assert asked(hot, token, FROM)
    named = hot.answer(head(PERSONAL, token, FROM, "Atoll-Request-Id: abcdefgh1", "Accept: a"), PEER)
    assert named is not None
    assert b"\r\nAtoll-Request-Id: abcdefgh1\r\n" in named
    for line in ("Content-Length: 0", "Host: twice", "Accept : a", "Expect: 100-continue", token, "Atoll-Session: abc"):
        assert hot.answer(head(PERSONAL, token, FROM, line), PEER) is None
    assert hot.answer(head(PERSONAL, token, FROM) + b"GET", PEER) is None
    assert hot.answer(head(PERSONAL, token, FROM)[:-1], PEER) is None


async def test_whose_a_request_is_is_never_taken_from_another_s_head(world: World, warm: Warm) -> None:
    client, hot, token = warm
    # A head without a token is known; the same bytes with a token behind them are somebody's request.
    assert asked(hot, FROM, target=POPULAR)
    assert hot.answer(head(POPULAR, FROM, token), PEER)
    assert hot.answer(head(PERSONAL, FROM), PEER) is None
    first = hot.answer(head(PERSONAL, FROM, token), PEER)
    assert first is not None
    assert b'"p-0"' in first
    # And the other way round: what was answered with a token at its end says nothing about the bytes before it.
    assert hot.answer(head(PERSONAL, FROM), PEER) is None
    world.home.personal_prefix = "bobs"
    shown = world.token("bob")
    await warmed(client, PERSONAL, **shown)
    answer = asked(hot, line_of(shown), FROM)
    assert answer is not None
    assert b'"bobs-0"' in answer
    line = line_of(shown)
    forged = line[:-10] + ("A" if line[-10] != "A" else "B") + line[-9:]
    assert hot.answer(head(PERSONAL, forged, FROM), PEER) is None


async def test_a_host_must_stand_in_what_is_remembered(warm: Warm) -> None:
    _, hot, token = warm
    assert hot.answer(head(PERSONAL, token, FROM, "Host: edge.test", host=False), PEER)
    assert hot.answer(head(PERSONAL, token, FROM, host=False), PEER) is None


@pytest.mark.parametrize(
    "message",
    [
        Invalidation(withdrawn=("p-0",)), Invalidation(release="f" * 20), Invalidation(rules="other"),
        Invalidation(purged=("item:p-0",)), Invalidation(subject="<alice>", subject_version=1),
        Invalidation(subject="<alice>", subject_version=1, opted_out=True),
        Invalidation(subject="<alice>", subject_version=0, consumed=("p-0",)),
        Invalidation(subject="<alice>", subject_version=1, erased=True),
    ],
)  # fmt: skip
async def test_what_is_heard_holds_for_the_next_answer(world: World, warm: Warm, message: Invalidation) -> None:
    _, hot, token = warm
    assert asked(hot, token, FROM)
    if message.subject is not None:
        await tell(world, Invalidation(subject=world.subject("bob"), subject_version=9))
        assert hot.answer(head(PERSONAL, token, FROM), PEER), "what concerns another subject changes nothing"
        fields = {name: getattr(message, name) for name in ("subject_version", "opted_out", "consumed", "erased")}
        message = Invalidation(subject=world.subject(), **fields)
    await tell(world, message)
    assert hot.answer(head(PERSONAL, token, FROM), PEER) is None


async def test_while_the_grid_is_silent_a_personal_list_lives_a_second(
    warm: Warm, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, hot, token = warm
    ledger = hot._ledger
    data, popular = head(PERSONAL, token, FROM), head(POPULAR, FROM)
    assert asked(hot, token, FROM)
    ledger.silent = True
    later_s = SystemClock().monotonic_s() + 2.0
    monkeypatch.setattr(SystemClock, "monotonic_s", staticmethod(lambda: later_s))
    assert hot.answer(data, PEER) is None
    assert hot.answer(popular, PEER)
    ledger.silent = False
    assert hot.answer(data, PEER)


async def test_a_token_s_end_ends_it(world: World, warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    client, hot, _ = warm
    shown = world.token(life_s=600)
    await warmed(client, PERSONAL, **shown)
    token = line_of(shown)
    assert asked(hot, token, FROM)
    later_ms = SystemClock().now_ms() + 600_000
    monkeypatch.setattr(SystemClock, "now_ms", lambda _self: later_ms)
    hot._second.ends_s = 0.0
    assert hot.answer(head(PERSONAL, token, FROM), PEER) is None


async def test_a_retired_key_ends_every_head(world: World, warm: Warm, monkeypatch: pytest.MonkeyPatch) -> None:
    _, hot, token = warm
    assert asked(hot, token, FROM)
    monkeypatch.setattr(type(world.trust), "edition", property(lambda _self: 99), raising=False)
    hot._second.ends_s = 0.0
    assert hot.answer(head(PERSONAL, token, FROM), PEER) is None
    assert must_be_read(hot, head(PERSONAL, token, FROM))


async def test_a_caller_over_the_limit_is_handed_over(world: World) -> None:
    client = await world.edge(requests_per_caller_s=0.001, burst_per_caller=6.0)
    shown = world.token()
    await warmed(client, PERSONAL, **shown)
    hot = client.server.app[HOT_PATH]  # type: ignore[attr-defined]
    data = head(PERSONAL, line_of(shown), FROM)
    assert [hot.answer(data, PEER) is not None for _ in range(5)] == [True, True, True, False, False]


async def test_a_list_that_leaves_the_cache_takes_its_answers_along(warm: Warm) -> None:
    _, hot, token = warm
    assert asked(hot, token, FROM)
    linked = hot.known.young[head(PERSONAL, token, FROM)[: lasting_end(head(PERSONAL, token, FROM))]]
    entry = linked.ready.entry
    hot._parts.answers.forget(entry)
    assert linked.ready.full is None
    assert hot.answer(head(PERSONAL, token, FROM), PEER) is None


async def test_draining_ends_the_short_cut_at_once(warm: Warm) -> None:
    _, hot, token = warm
    assert asked(hot, token, FROM)
    hot._drain.begun = True
    assert hot.answer(head(PERSONAL, token, FROM), PEER) is None


async def test_a_busy_connection_is_not_closed_as_idle(warm: Warm) -> None:
    client, hot, token = warm
    async with wire(client) as line:
        assert await line.ask(head(PERSONAL, token, FROM))
        runner = client.server.runner
        assert runner is not None
        assert runner.server is not None
        handlers = [one for one in runner.server.connections if isinstance(one, HotHandler) and one.answered]
        (handler,) = handlers
        handler._next_keepalive_close_time = 0.0
        handler._process_keepalive()
        assert handler._next_keepalive_close_time > 0.0
        assert hot.answer(head(PERSONAL, token, FROM), PEER)
        assert await line.ask(head(PERSONAL, token, FROM))
