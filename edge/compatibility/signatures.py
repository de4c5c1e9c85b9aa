"""AWS Signature Version 4, checked: pure (AWS General Reference, "Create a signed AWS API request").

A signature proves that its maker has the secret of a service key and that method, path, query, the signed headers and
the body are what was signed, at a moment that is not far from now. Inside that window a recorded request could be sent
again, as at AWS; what it would repeat is a read, or events that count once by their ids.
"""

import hashlib
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final
from urllib.parse import quote

from infra.plumbing.errors import UnauthorizedError

ALGORITHM: Final = "AWS4-HMAC-SHA256"
WINDOW_S: Final = 300
SERVICE: Final = "personalize"
HEADERS_MAX: Final = 40
_UNRESERVED: Final = "-_.~"
_CREDENTIAL = re.compile(
    r"AWS4-HMAC-SHA256 +Credential=(?P<id>[A-Za-z0-9]{1,64})/(?P<day>[0-9]{8})/(?P<region>[a-z0-9-]{1,32})"
    r"/(?P<service>[a-z0-9-]{1,32})/aws4_request *, *SignedHeaders=(?P<headers>[a-z0-9;-]{1,1000})"
    r" *, *Signature=(?P<signature>[0-9a-f]{64})"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Signed:
    """What a request says of its signature. `headers`: names of the signed ones, lower case, in the order given."""

    key_id: str
    day: str
    region: str
    headers: tuple[str, ...]
    signature: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """The request that was signed. `path` as it came, still percent-encoded; `query` decoded; header names any case."""

    method: str
    path: str
    query: Sequence[tuple[str, str]]
    headers: Mapping[str, str]
    body: bytes


def parse_authorization(authorization: str | None) -> Signed:
    """What the `Authorization` header says.

    Raises:
        UnauthorizedError: it is missing or not of this kind.
    """
    found = _CREDENTIAL.fullmatch(authorization or "")
    if found is None or found["service"] != SERVICE:
        raise UnauthorizedError(
            "the request is not signed.", fix=f"Sign it with {ALGORITHM} for service {SERVICE}, as AWS clients do."
        )
    names = tuple(found["headers"].split(";"))
    if len(names) > HEADERS_MAX or not {"host", "x-amz-date"} <= set(names):
        raise UnauthorizedError("the signature must cover host and x-amz-date.")
    return Signed(
        key_id=found["id"], day=found["day"], region=found["region"], headers=names, signature=found["signature"]
    )


def check_signature(signed: Signed, message: Message, secret: str, *, now_s: float) -> None:
    """Accept a signature that holds.

    Raises:
        UnauthorizedError: it was made with another secret or for another request, or more than WINDOW_S from now.
    """
    moment = message.headers.get("X-Amz-Date", "")
    try:
        made_s = datetime.strptime(moment, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise UnauthorizedError("X-Amz-Date is not a moment.") from None
    if abs(now_s - made_s) > WINDOW_S or not moment.startswith(signed.day):
        raise UnauthorizedError("the signature is not of this moment.", fix="Set the clock of the caller.")
    request = hashlib.sha256(_canonical_request(signed, message).encode("utf-8", "surrogateescape")).hexdigest()
    scope = f"{signed.day}/{signed.region}/{SERVICE}/aws4_request"
    to_sign = "\n".join((ALGORITHM, moment, scope, request))
    expected = hmac.new(_signing_key(signed, secret), to_sign.encode(), hashlib.sha256).hexdigest()
    # Constant time: how far a guess is right must not show in how long the refusal takes.
    if not hmac.compare_digest(expected, signed.signature):
        raise UnauthorizedError("the signature does not hold.", fix="Check the secret access key.")


def _canonical_request(signed: Signed, message: Message) -> str:
    # Every service but S3 encodes the path, which is encoded already, once more.
    path = quote(message.path or "/", safe="/" + _UNRESERVED)
    pairs = sorted((quote(key, safe=_UNRESERVED), quote(value, safe=_UNRESERVED)) for key, value in message.query)
    query = "&".join(f"{key}={value}" for key, value in pairs)
    headers = "".join(f"{name}:{' '.join(message.headers.get(name, '').split())}\n" for name in signed.headers)
    body = hashlib.sha256(message.body).hexdigest()
    return "\n".join((message.method, path, query, headers, ";".join(signed.headers), body))


def _signing_key(signed: Signed, secret: str) -> bytes:
    key = b"AWS4" + secret.encode()
    for part in (signed.day, signed.region, SERVICE, "aws4_request"):
        key = hmac.new(key, part.encode(), hashlib.sha256).digest()
    return key
