"""Sealed boxes open for their region only, and every change is found."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.sealing import open_call, open_reply, seal_call, seal_reply

EAST, WEST = RegionKeys.generate("us-east"), RegionKeys.generate("us-west")
PUBLIC = TrustDirectory.of([EAST]).regions["us-east"].relay_public


@given(st.binary(max_size=200), st.binary(max_size=200))
def test_call_and_reply_arrive(call: bytes, reply: bytes):
    box, reply_key = seal_call(PUBLIC, call)
    opened, same_key = open_call(EAST.relay_private, box)
    assert opened == call
    assert open_reply(reply_key, seal_reply(same_key, reply)) == reply


def test_only_home_opens():
    box, _ = seal_call(PUBLIC, b"secret")
    assert b"secret" not in box
    with pytest.raises(InvalidInputError):
        open_call(WEST.relay_private, box)


@pytest.mark.parametrize("position", [0, 31, 32, 43, 44, -1])
def test_a_changed_byte_is_found(position: int):
    box, reply_key = seal_call(PUBLIC, b"secret")
    changed = bytearray(box)
    changed[position] ^= 1
    with pytest.raises(InvalidInputError):
        open_call(EAST.relay_private, bytes(changed))
    reply = bytearray(seal_reply(reply_key, b"answer"))
    reply[-1] ^= 1
    with pytest.raises(InvalidInputError):
        open_reply(reply_key, bytes(reply))


@pytest.mark.parametrize("box", [b"", b"short", bytes(32), bytes(64)])
def test_garbage_is_refused(box: bytes):
    with pytest.raises(InvalidInputError):
        open_call(EAST.relay_private, box)
    with pytest.raises(InvalidInputError):
        open_reply(bytes(32), box)
