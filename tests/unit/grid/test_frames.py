from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.plumbing.grid.frames import (
    FRAME_BYTES_MAX,
    Call,
    FrameError,
    FrameReader,
    Operation,
    Reply,
    decode_call,
    decode_reply,
    encode_frame,
)

CALLS = st.builds(
    Call, st.integers(0, 2**40), st.sampled_from(Operation), st.text(max_size=20), st.binary(max_size=200),
    st.floats(0, 1e6),
)  # fmt: skip


@given(calls=st.lists(CALLS, max_size=6), cuts=st.lists(st.integers(1, 50), min_size=1))
def test_frames_come_out_as_they_went_in_however_they_are_cut(calls: list[Call], cuts: list[int]) -> None:
    stream = b"".join(encode_frame(call) for call in calls)
    reader, out, position, turn = FrameReader(), list[Call](), 0, 0
    while position < len(stream):
        size = cuts[turn % len(cuts)]
        reader.feed(stream[position : position + size])
        position, turn = position + size, turn + 1
        while (body := reader.take()) is not None:
            out.append(decode_call(body))
    assert out == calls
    assert reader.take() is None


def test_replies_come_back() -> None:
    reader = FrameReader()
    for reply in (Reply(1, b"x"), Reply(0, None, "topic"), Reply(2, error="no")):
        reader.feed(encode_frame(reply))
        body = reader.take()
        assert body is not None
        assert decode_reply(body) == reply


def test_a_frame_that_says_it_is_too_long_is_refused_before_it_is_kept() -> None:
    reader = FrameReader()
    reader.feed((FRAME_BYTES_MAX + 1).to_bytes(4, "big"))
    with pytest.raises(FrameError):
        reader.take()


@given(body=st.binary(max_size=60))
def test_garbage_is_a_frame_error_or_a_message_never_anything_else(body: bytes) -> None:
    for decode in (decode_call, decode_reply):
        with suppress(FrameError):
            decode(body)
