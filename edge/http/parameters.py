"""Every parameter of a call for a list: its name, its bounds, what it means.

The reader (`query`) takes its bounds from here and the OpenAPI document is made of this table: a bound has one place.
"""

from dataclasses import dataclass
from typing import Annotated, Any, Final

from msgspec import Meta

from edge.calls import PAGE_MAX
from infra.contracts.discovery import CHOICE_CATEGORIES_MAX, CHOICE_ITEMS_MAX, QUERY_CHARACTERS_MAX, SUGGEST_MAX
from infra.contracts.messages import SLATE_ITEMS_MAX, DeviceKind, ReferrerKind, Surface

ITEM_CHARACTERS_MAX: Final = 128
EXCLUDE_MAX: Final = SLATE_ITEMS_MAX
RECENT_MAX: Final = 50
ATTRIBUTES_MAX: Final = 8
ATTRIBUTE_VALUES_MAX: Final = 20
PRICE_MAX: Final = 1e12
LOCALE: Final = "^[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8}){0,2}$"
COUNTRY: Final = "^[A-Za-z]{2}$"
LOCAL_TIME: Final = "^([01][0-9]|2[0-3]):[0-5][0-9]$"
ARM: Final = "^[A-Za-z0-9_.:-]{1,64}$"
ATTRIBUTE: Final = "^[A-Za-z0-9_.-]{1,64}:.{1,128}$"
SESSION: Final = "^[A-Za-z0-9_.:-]{8,64}$"

Name = Annotated[str, Meta(min_length=1, max_length=ITEM_CHARACTERS_MAX)]
Price = Annotated[float, Meta(ge=0, le=PRICE_MAX)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parameter:
    """One parameter. `kind` is a type that msgspec makes a schema of; `place` is `query`, `path` or `header`.

    repeated: may be given more than once, and hold several values between commas where `listed`.
    """

    name: str
    kind: Any
    says: str
    place: str = "query"
    required: bool = False
    listed: bool = False
    """Several values between commas, and given as often as wanted."""
    repeated: bool = False
    """Given as often as wanted, one value each."""


LIST_PARAMETERS: Final = (
    Parameter(
        name="n", kind=Annotated[int, Meta(ge=1, le=PAGE_MAX)],
        says="Page size. Without it each surface has its own: home 10, detail 8, cart 6, email 12, feed 20.",
    ),
    Parameter(name="surface", kind=Surface, says="Where the list is shown."),
    Parameter(name="item", kind=Name, says="What the list is about; types `similar` and `together` need it."),
    Parameter(name="category", kind=Name, says="Only items of this category."),
    Parameter(name="price_min", kind=Price, says="Only items that cost at least this."),
    Parameter(name="price_max", kind=Price, says="Only items that cost at most this."),
    Parameter(
        name="attribute", kind=Annotated[list[Annotated[str, Meta(pattern=ATTRIBUTE)]], Meta(max_length=40)],
        repeated=True,
        says="Only items with this attribute, as `name:value`. The same name again: either value; another name: both "
        f"must hold. At most {ATTRIBUTES_MAX} names with {ATTRIBUTE_VALUES_MAX} values each.",
    ),
    Parameter(
        name="exclude", kind=Annotated[list[Name], Meta(max_length=EXCLUDE_MAX)], listed=True,
        says="Items that must not appear.",
    ),
    Parameter(
        name="recent", kind=Annotated[list[Name], Meta(max_length=RECENT_MAX)], listed=True,
        says="Items that the visitor has seen, oldest first; for type `session`.",
    ),
    Parameter(
        name="cursor", kind=str,
        says="`next` of the page before. No item comes twice and none is passed over, even if the list has changed.",
    ),
    Parameter(name="locale", kind=Annotated[str, Meta(pattern=LOCALE)], says="Language of reasons, as BCP 47."),
    Parameter(name="device", kind=DeviceKind, says="What the list is shown on."),
    Parameter(name="country", kind=Annotated[str, Meta(pattern=COUNTRY)], says="Where the visitor is, ISO 3166-1."),
    Parameter(
        name="local_time", kind=Annotated[str, Meta(pattern=LOCAL_TIME)], says="The visitor's time of day, `HH:MM`."
    ),
    Parameter(name="referrer", kind=ReferrerKind, says="What kind of place the visitor came from."),
    Parameter(
        name="arm", kind=Annotated[str, Meta(pattern=ARM)],
        says="The experiment arm to see. For testers: needs a service key with scope `test`.",
    ),
    Parameter(name="explain", kind=Annotated[str, Meta(pattern="^[01]$")], says="`1`: say what each stage did."),
)  # fmt: skip
LOCALE_PARAMETER: Final = next(one for one in LIST_PARAMETERS if one.name == "locale")
COUNTRY_PARAMETER: Final = next(one for one in LIST_PARAMETERS if one.name == "country")
CHOICES_PARAMETERS: Final = (
    Parameter(
        name="categories", kind=Annotated[int, Meta(ge=1, le=CHOICE_CATEGORIES_MAX)], says="How many. Without it: 8."
    ),
    Parameter(
        name="items", kind=Annotated[int, Meta(ge=1, le=CHOICE_ITEMS_MAX)], says="Of each category. Without it: 4."
    ),
    LOCALE_PARAMETER,
    COUNTRY_PARAMETER,
)  # fmt: skip
SUGGEST_PARAMETERS: Final = (
    Parameter(
        name="q", kind=Annotated[str, Meta(max_length=QUERY_CHARACTERS_MAX)],
        says="What was typed so far, in any case, width and with or without accents. Empty: what is most popular.",
    ),
    Parameter(name="n", kind=Annotated[int, Meta(ge=1, le=SUGGEST_MAX)], says="How many. Without it: 10."),
    LOCALE_PARAMETER,
    COUNTRY_PARAMETER,
)  # fmt: skip
NAMES: Final = tuple(parameter.name for parameter in LIST_PARAMETERS)

VECTOR_HEADERS: Final = (
    Parameter(
        name="Atoll-User-Vector", place="header", kind=str,
        says="The caller's own user vector, computed on the device: float32, little endian, base64url. Any region can "
        "rank with it; nothing of it is kept.",
    ),
    Parameter(
        name="Atoll-Vector-Release", place="header", kind=Annotated[str, Meta(pattern="^[0-9a-f]{20}$")],
        says="The release whose tower made the vector.",
    ),
)  # fmt: skip
SESSION_HEADER: Final = Parameter(
    name="Atoll-Session", place="header", kind=Annotated[str, Meta(pattern=SESSION)],
    says="An anonymous visitor's session, chosen by the application.",
)  # fmt: skip
USER_HEADER: Final = Parameter(
    name="Atoll-User", place="header", kind=Annotated[str, Meta(min_length=1, max_length=256)],
    says="For service keys with scope `read` or `events`: whose call it is.",
)  # fmt: skip
DEADLINE_HEADER: Final = Parameter(
    name="Atoll-Deadline-Ms", place="header", kind=Annotated[int, Meta(ge=0, le=999_999_999)],
    says="How long the caller waits, in milliseconds.",
)  # fmt: skip
REQUEST_ID_HEADER: Final = Parameter(
    name="Atoll-Request-Id", place="header", kind=str, says="8 to 64 letters, digits or `_.:-`; given back as it is."
)
IF_NONE_MATCH: Final = Parameter(
    name="If-None-Match", place="header", kind=str, says="Entity tag of the page that the caller has (RFC 9110)."
)
