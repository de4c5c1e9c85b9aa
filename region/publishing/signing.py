"""Signing what is to be published, on the operator's machine: no node of a region reads a signing key."""

import datetime
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from infra.plumbing.clock import Clock
from infra.plumbing.tuf_client.delegation import sign_statement
from infra.plumbing.tuf_client.signing import load_signer
from region.publishing.proving import SignedFile

STATEMENT_LIFE_S: Final = 365 * 86_400
"""After it a statement is not taken any more. What holds goes on: a region without its hard rules would be worse."""


def signed_statement(
    signed: SignedFile, document: str, region: str, keys: Sequence[Path], *, version: int, clock: Clock
) -> str:
    """What the keys in the files `keys` say: that `document` is the region's file `signed`.

    Raises:
        KeysError: a key cannot be used.
    """
    expires = datetime.datetime.fromtimestamp(clock.now_ms() // 1000 + STATEMENT_LIFE_S, tz=datetime.UTC)
    statement = sign_statement(
        region, {signed.name: document.encode()}, version=version, expires=expires,
        signers=[load_signer(path) for path in keys],
    )  # fmt: skip
    return statement.decode()
