"""The public API as data: every operation with what it takes and what it answers.

The router and the OpenAPI document are both made from OPERATIONS, so that neither can say something that the other does
not.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from msgspec import Meta

from edge.http.bodies import (
    BulkLine,
    BulkResult,
    CallerChoice,
    CallerEvents,
    CallerOnboarding,
    ChoiceBody,
    ListBody,
)
from edge.http.parameters import (
    CHOICES_PARAMETERS,
    DEADLINE_HEADER,
    IF_NONE_MATCH,
    LIST_PARAMETERS,
    LOCALE,
    REQUEST_ID_HEADER,
    SESSION_HEADER,
    SUGGEST_PARAMETERS,
    USER_HEADER,
    VECTOR_HEADERS,
    Name,
    Parameter,
)
from edge.http.rights import Export
from infra.contracts.discovery import ChoicesAnswer, SuggestAnswer
from infra.contracts.events import EventAck
from infra.contracts.messages import DegradationStep, RecommendationType

JSON: Final = "application/json"
TOKEN, KEY, SESSION = "token", "service-key", "session"
CALLERS: Final = {
    TOKEN: {"type": "http", "scheme": "bearer", "bearerFormat": "JWT",
            "description": "An end user's token: bound to a subject that only its home region can read."},
    KEY: {"type": "apiKey", "in": "header", "name": "Atoll-Key",
          "description": "A service's key, `id.secret`, with scopes. Whose call it is stands in `Atoll-User`."},
    SESSION: {"type": "apiKey", "in": "header", "name": "Atoll-Session",
              "description": "An anonymous visitor's session: 8 to 64 characters that the application chooses."},
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Header:
    """A header of an answer."""

    name: str
    kind: Any
    says: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """A good answer: its status, what is in it (a message type, or None without a body), its headers."""

    status: int
    says: str
    body: Any = None
    media: str = JSON
    headers: tuple[Header, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Operation:
    """One method of one path. `callers`: which ways of saying who calls fit, any one of them; empty: nobody needs to.

    refusals: kinds of problems (`infra.plumbing.http.problems`) by the last part of their type.
    """

    id: str
    method: str
    path: str
    tag: str
    summary: str
    says: str
    callers: tuple[str, ...] = ()
    callers_optional: bool = False
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    body_media: str = JSON
    answers: tuple[Answer, ...]
    refusals: tuple[str, ...] = ()


_STAMPS: Final = (
    Header("ETag", str, "Tag of this page (RFC 9110)."),
    Header("Age", int, "Seconds since the region made the list (RFC 9111)."),
    Header("Cache-Control", str, "How long the caller's own cache may use it."),
    Header("Cache-Status", str, "How the edge's caches handled the call (RFC 9211)."),
    Header("Atoll-Step", DegradationStep, "Which rung of the ladder produced the answer."),
    Header("Atoll-Release", str, "The release that the list comes from."),
    Header("Atoll-Region", str, "The region that made the list."),
)
_KEPT_STAMPS: Final = _STAMPS[:4]
_OF_BODIES: Final = ("content-too-large", "request-timeout")
_EVERYBODY: Final = (
    "bad-request",
    "unauthorized",
    "forbidden",
    "too-many-requests",
    "headers-too-large",
    "unavailable",
    "internal-error",
)

OPERATIONS: Final = (
    Operation(
        id="recommendations", method="GET", path="/v1/recommendations/{type}", tag="lists", summary="A list of items",
        says="The best list that can be had in time. A valid call is answered whatever is down; `Atoll-Step` and "
        "`degraded` say how. `personal` needs a token, or a service key with scope `read`.",
        callers=(TOKEN, KEY, SESSION), callers_optional=True,
        parameters=(
            Parameter(name="type", kind=RecommendationType, says="What kind of list.", place="path", required=True),
            *LIST_PARAMETERS, *VECTOR_HEADERS, SESSION_HEADER, USER_HEADER, DEADLINE_HEADER, IF_NONE_MATCH,
            REQUEST_ID_HEADER,
        ),
        answers=(
            Answer(status=200, says="A page of the list.", body=ListBody, headers=_STAMPS),
            Answer(status=304, says="The caller has this page.", headers=_STAMPS),
        ),
        refusals=_EVERYBODY,
    ),
    Operation(
        id="events", method="POST", path="/v1/events", tag="feedback", summary="What happened",
        says="Events of one subject or session. The answer comes when they are durable; the same `event_id` counts "
        "once, so a call may be sent again.",
        callers=(TOKEN, KEY, SESSION), parameters=(SESSION_HEADER, USER_HEADER, REQUEST_ID_HEADER), body=CallerEvents,
        answers=(Answer(status=200, says="Durable.", body=EventAck),),
        refusals=(*_EVERYBODY, *_OF_BODIES, "overloaded"),
    ),
    Operation(
        id="bulk", method="POST", path="/v1/bulk/recommendations", tag="lists", summary="Lists for many subjects",
        says="For e-mail: a JSON object a line in, one a line out, in the same order, as they are made. Each line has "
        "its own status. Read while you send, or send a thousand lines a call. Page views come first: under load "
        "lines are answered with what is at hand, and `step` says so.",
        callers=(KEY,), parameters=(REQUEST_ID_HEADER,), body=BulkLine, body_media="application/x-ndjson",
        answers=(Answer(status=200, says="One line for each line.", body=BulkResult, media="application/x-ndjson"),),
        refusals=(*_EVERYBODY, "overloaded"),
    ),
    Operation(
        id="suggest", method="GET", path="/v1/suggest", tag="discovery", summary="What a few letters may mean",
        says="Categories, brands and items with a word that begins like `q`, the most popular first; a typo is "
        "corrected and `meant` says how. With a token what its subject leans to comes earlier; without one the answer "
        "may be kept.",
        callers=(TOKEN, KEY, SESSION), callers_optional=True,
        parameters=(*SUGGEST_PARAMETERS, SESSION_HEADER, USER_HEADER, IF_NONE_MATCH, REQUEST_ID_HEADER),
        answers=(
            Answer(
                status=200, says="At most `n` suggestions; none is an answer too.", body=SuggestAnswer,
                headers=_KEPT_STAMPS,
            ),
            Answer(status=304, says="The caller has this answer.", headers=_KEPT_STAMPS),
        ),
        refusals=_EVERYBODY,
    ),
    Operation(
        id="onboarding_choices", method="GET", path="/v1/onboarding", tag="discovery", summary="What to choose from",
        says="For somebody of whom nothing is known yet: popular items of the region by category, each item once. The "
        "same for everybody, so it may be kept. What is chosen is sent with `POST /v1/onboarding`.",
        callers=(TOKEN, KEY, SESSION), callers_optional=True,
        parameters=(*CHOICES_PARAMETERS, SESSION_HEADER, USER_HEADER, IF_NONE_MATCH, REQUEST_ID_HEADER),
        answers=(
            Answer(
                status=200, says="Categories, those that bring most first.", body=ChoicesAnswer, headers=_KEPT_STAMPS
            ),
            Answer(status=304, says="The caller has this answer.", headers=_KEPT_STAMPS),
        ),
        refusals=_EVERYBODY,
    ),
    Operation(
        id="onboarding", method="POST", path="/v1/onboarding", tag="discovery", summary="What was chosen",
        says="Likes, dislikes and what is followed, durable in the home region when the answer comes; the next list "
        "goes by it. It is a batch of events (`like`, `dislike`, `follow`): sent again on the same day it counts once.",
        callers=(TOKEN, KEY, SESSION), parameters=(SESSION_HEADER, USER_HEADER, REQUEST_ID_HEADER),
        body=CallerOnboarding, answers=(Answer(status=200, says="Durable.", body=EventAck),),
        refusals=(*_EVERYBODY, *_OF_BODIES, "overloaded"),
    ),
    Operation(
        id="opt_out", method="PUT", path="/v1/privacy/opt-out", tag="privacy", summary="No personal lists",
        says="The caller's own choice; the very next list follows it, in every region.",
        callers=(TOKEN,), parameters=(REQUEST_ID_HEADER,), body=CallerChoice,
        answers=(Answer(status=200, says="The choice holds.", body=ChoiceBody),),
        refusals=(*_EVERYBODY, *_OF_BODIES),
    ),
    Operation(
        id="export", method="GET", path="/v1/privacy/export", tag="privacy", summary="What is known of me",
        says="Everything that the caller's home region has of them, as JSON: history, events, choice, samples. Only at "
        "an edge of that region; elsewhere the answer says where to go.",
        callers=(TOKEN,), parameters=(REQUEST_ID_HEADER,),
        answers=(Answer(status=200, says="All of it.", body=Export),),
        refusals=(*_EVERYBODY, "overloaded"),
    ),
    Operation(
        id="why", method="GET", path="/v1/privacy/why/{item}", tag="privacy", summary="Why am I seeing this",
        says="What of the caller's own puts an item where it is on their list: the list is made again without each of "
        "their latest signals, and those without which the item falls are named, with what the caller can do about it. "
        "In the language of `locale`. Only at an edge of the caller's home region.",
        callers=(TOKEN,), parameters=(
            Parameter(name="item", kind=Name, says="The item.", place="path", required=True),
            Parameter(name="locale", kind=Annotated[str, Meta(pattern=LOCALE)], says="A language tag, or `en`."),
            REQUEST_ID_HEADER,
        ),
        answers=(Answer(status=200, says="Why, and what can be done.", body=Export),),
        refusals=(*_EVERYBODY, "overloaded"),
    ),
    Operation(
        id="erase", method="DELETE", path="/v1/privacy/me", tag="privacy", summary="Forget me",
        says="Everything that the caller's home region has of them is erased. The answer is a receipt that the region "
        "signed: keep it. Whoever comes back is somebody new. Only at an edge of that region.",
        callers=(TOKEN,), parameters=(REQUEST_ID_HEADER,),
        answers=(Answer(status=200, says="The signed receipt.", body=Export),),
        refusals=(*_EVERYBODY, "overloaded"),
    ),
    Operation(
        id="document", method="GET", path="/openapi.json", tag="about", summary="This document",
        says="The API as an OpenAPI 3.1 document; people read it at `/docs`.",
        answers=(Answer(status=200, says="The document.", body=dict[str, Any]),),
    ),
    Operation(
        id="problem", method="GET", path="/problems/{kind}", tag="about", summary="What a kind of problem means",
        says="Where the `type` of a problem document (RFC 9457) leads.",
        parameters=(
            Parameter(
                name="kind", kind=Annotated[str, Meta(pattern="^[a-z-]{1,40}$")], says="Last part of the type.",
                place="path", required=True,
            ),
        ),
        answers=(Answer(status=200, says="A page for people.", body=str, media="text/html"),),
        refusals=("not-found",),
    ),
)  # fmt: skip
