"""How a subject is called inside the region: pseudonyms only, and a session can be told from a user by its name.

A user is 32 hex digits (`RegionKeys.pseudonym("user", user_id)`), an anonymous session is `s` and 32 hex digits
(`RegionKeys.session_subject`). Whatever else is offered as a subject is not a pseudonym and is refused at the door,
so that a raw user id cannot end up in the log or the store.
"""

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
