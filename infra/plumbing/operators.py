"""Operators by name: each has a key of their own, made of the region's operator key, so that an audit says who it was.

A named key is `<name>:<HMAC-SHA256 of the name under the operator key>`: whoever holds the operator key can make and
check it, nothing has to be stored, and nobody can make another's from their own. A name whose key was lost is retired,
for good.
"""

import base64
import hashlib
import hmac
import re
from collections.abc import Collection

from infra.plumbing.errors import InvalidInputError

OPERATOR_NAME = "operator"
"""Whoever shows the operator key itself: its holder is not told apart from others who hold it."""
RETIRED_MAX = 1_000
_NAME = re.compile(r"[a-z][a-z0-9._-]{0,31}")
_RESERVED = (OPERATOR_NAME, "region", "service")


def check_operator_name(name: str) -> str:
    """`name`, if an operator may be called so.

    Raises:
        InvalidInputError: it is no name, or stands for somebody else in an audit.
    """
    if not _NAME.fullmatch(name) or name in _RESERVED:
        raise InvalidInputError(
            f"{name[:40]!r} is no operator's name.",
            fix=f"Use 1 to 32 small letters, digits, dots or hyphens, a letter first; not {' or '.join(_RESERVED)}.",
        )
    return name


def named_key(operator_key: str, name: str) -> str:
    """The key of the operator `name`.

    Raises:
        InvalidInputError: as `check_operator_name`.
    """
    digest = hmac.digest(operator_key.encode(), f"atoll operator\0{check_operator_name(name)}".encode(), hashlib.sha256)
    return f"{name}:{base64.urlsafe_b64encode(digest).rstrip(b'=').decode()}"


def operator_of(offered: str, operator_key: str, *, retired: Collection[str] = ()) -> str | None:
    """Whose key `offered` is; None: nobody's. Takes as long however right a guess is."""
    name, colon, _ = offered.partition(":")
    known = bool(colon) and _NAME.fullmatch(name) is not None and name not in _RESERVED
    expected = named_key(operator_key, name) if known else operator_key
    # What no UTF-8 is stands for itself in what aiohttp reads.
    if not hmac.compare_digest(offered.encode(errors="surrogateescape"), expected.encode()):
        return None
    if not known:
        return OPERATOR_NAME
    return None if name in retired else name
