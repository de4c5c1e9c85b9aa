"""How a subject is called inside the region: pseudonyms only, and a session can be told from a user by its name.

A user is 32 hex digits (`RegionKeys.pseudonym("user", user_id)`), an anonymous session is `s` and 32 hex digits
(`RegionKeys.session_subject`). Whatever else is offered as a subject is not a pseudonym and is refused at the door,
so that a raw user id cannot end up in the log or the store.
"""

import hashlib
import re

from infra.plumbing.keys import RegionKeys

_SUBJECT = re.compile(r"s?[0-9a-f]{32}")


def user_subject(keys: RegionKeys, user_id: str) -> str:
    """The subject of a signed-in user."""
    return keys.pseudonym("user", user_id)


def session_subject(keys: RegionKeys, session_id: str) -> str:
    """The subject of an anonymous session."""
    return keys.session_subject(session_id)


def is_subject(name: str) -> bool:
    """Whether `name` has the form of a pseudonym."""
    return _SUBJECT.fullmatch(name) is not None


def is_session(subject: str) -> bool:
    """Whether the subject is an anonymous session, whose row expires."""
    return subject.startswith("s")


def erasure_mark(subject: str) -> str:
    """Under what an erasure is kept: a hash from which the subject cannot be told, while who has it can find the mark.

    A pseudonym is 128 bits that look random to everybody without the region's key, so there is nothing to guess.
    """
    return hashlib.blake2b(subject.encode(), digest_size=16, person=b"atoll-erasure").hexdigest()
