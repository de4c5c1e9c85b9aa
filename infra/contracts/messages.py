"""What the processes say to each other: requests, answers, slates and their traces, invalidations.

Times are Unix epoch milliseconds (`*_ms`) unless a name says otherwise; durations carry their unit too.
"""

import enum

import msgspec

from infra.contracts.kept_out import ItemsKeptOut
from infra.contracts.residency import Global, GlobalMessage, Regional, RegionalMessage

SLATE_ITEMS_MAX = 200
"""No request may ask for more items than this."""


TRIAL_ARM = "canary"
"""The arm of answers of a release that is being tried; they say nothing of what the region runs."""


class RecommendationType(enum.StrEnum):
    """What kind of list a caller asks for (MISSION A1)."""

    PERSONAL = "personal"
    SIMILAR = "similar"
    TRENDING = "trending"
    POPULAR = "popular"
    SESSION = "session"
    TOGETHER = "together"
    """What is often taken together with an item."""


class Surface(enum.StrEnum):
    """Where the list is shown (MISSION A2)."""

    HOME = "home"
    DETAIL = "detail"
    CART = "cart"
    EMAIL = "email"
    FEED = "feed"


class DegradationStep(enum.StrEnum):
    """The ladder of MISSION B5, best first: which rung produced an answer."""

    FRESH = "fresh"
    """A fresh entry of the edge's in-process cache."""
    GRID = "grid"
    """A fresh entry of the region's grid."""
    HOME = "home"
    """Computed now by the home region (or by the serving region, for lists that are not personal)."""
    STALE = "stale"
    """A stale entry: served while it is revalidated, or because nothing better answered."""
    REPLICA = "replica"
    """Another node of the home region, after the first one failed."""
    FAILOVER_VECTOR = "failover-vector"
    """Another region, ranked with the vector that the client itself sent."""
    FAILOVER = "failover"
    """Another region, without personal data."""
    RELEASE = "release"
    """The release's own lists, from the edge's memory."""


class Source(enum.StrEnum):
    """Which candidate source put an item up."""

    ANN = "ann"
    SIMILAR_TO_RECENT = "similar-to-recent"
    SIMILAR = "similar"
    TOGETHER = "together"
    TRENDING = "trending"
    POPULAR = "popular"
    NEW = "new"
    """New in the catalogue, shown to learn about it."""
    FOLLOWS = "follows"
    """Of a category, brand or creator that the subject follows."""
    EDITORIAL = "editorial"
    """On a list that the region's editors made."""
    CONTEXT = "context"
    """What is liked in circumstances like these: hour, device, language, country."""
    RULE = "rule"
    """Put up by a rule: a promotion, or what a floor asks for."""
    RELEASE_LISTS = "release-lists"


class ReasonCode(enum.StrEnum):
    """Why an item is in the slate, for people (MISSION A4)."""

    FOR_YOU = "for-you"
    BECAUSE_RECENT = "because-recent"
    SIMILAR_ITEM = "similar-item"
    TOGETHER = "together"
    TRENDING_REGION = "trending-region"
    TRENDING_CATEGORY = "trending-category"
    POPULAR = "popular"
    POPULAR_IN_CATEGORY = "popular-in-category"
    NEW_ITEM = "new-item"
    DISCOVER = "discover"
    """Drawn for an exploration slot: to learn whether it pleases."""
    FOLLOWED = "followed"
    EDITORIAL = "editorial"
    POPULAR_IN_CONTEXT = "popular-in-context"
    PROMOTED = "promoted"


class DeviceKind(enum.StrEnum):
    """What the list is shown on."""

    PHONE = "phone"
    TABLET = "tablet"
    DESKTOP = "desktop"
    TV = "tv"
    SPEAKER = "speaker"
    OTHER = "other"


class ReferrerKind(enum.StrEnum):
    """What kind of place the visitor came from: never which one, for an address may name a person."""

    DIRECT = "direct"
    INTERNAL = "internal"
    SEARCH = "search"
    SOCIAL = "social"
    EMAIL = "email"
    PUSH = "push"
    AD = "ad"
    PARTNER = "partner"


class Context(GlobalMessage, frozen=True, kw_only=True):
    """Coarse circumstances of a request; nothing in it singles out a person. Empty: not known."""

    locale: Global[str] = "en"
    device: Global[str] = ""
    """A `DeviceKind`."""
    local_hour: Global[int | None] = None
    country: Global[str] = ""
    """ISO 3166-1 alpha-2 in capitals; empty: not known."""
    referrer: Global[str] = ""
    """A `ReferrerKind`."""


class AttributeFilter(GlobalMessage, frozen=True, kw_only=True):
    """The item must have one of `values` under `name` in the release's catalogue."""

    name: Global[str]
    values: Global[tuple[str, ...]]


class ItemFilters(GlobalMessage, frozen=True, kw_only=True):
    """What an item must be to be shown, beside its category: every part that is given must hold.

    An item of which the catalogue knows no price, or not the attribute, does not pass a filter on it.
    """

    price_min: Global[float | None] = None
    price_max: Global[float | None] = None
    attributes: Global[tuple[AttributeFilter, ...]] = ()

    @property
    def empty(self) -> bool:
        """Whether every item passes."""
        return self.price_min is None and self.price_max is None and not self.attributes


class Reason(GlobalMessage, frozen=True, kw_only=True, gc=False):
    """A reason code and its sentence in the caller's language."""

    code: Global[ReasonCode]
    text: Global[str]


class SlateItem(GlobalMessage, frozen=True, kw_only=True, gc=False):
    """One recommended item. `score` is comparable within one slate only."""

    item: Global[str]
    score: Global[float]
    source: Global[Source]
    reason: Global[Reason]
    title: Global[str] = ""
    rules: Global[tuple[str, ...]] = ()
    """Names of the region's rules that moved it."""
    stages: Global[dict[str, float]] = msgspec.field(default_factory=dict)
    """Score of each stage, for who asked to explain."""


class StageTrace(GlobalMessage, frozen=True, kw_only=True):
    """What one stage of the funnel did: how many came in, how many went out, how long it took, why it was skipped."""

    stage: Global[str]
    candidates_in: Global[int]
    candidates_out: Global[int]
    took_ms: Global[float]
    skipped: Global[str] = ""


class Lifetime(GlobalMessage, frozen=True, kw_only=True):
    """How long a list may be kept (RFC 9111 and RFC 5861), in seconds."""

    max_age_s: Global[float]
    stale_while_revalidate_s: Global[float]
    stale_if_error_s: Global[float]


class HomeRequest(RegionalMessage, frozen=True, kw_only=True):
    """An edge asks its own region for a list. `subject` is the region's pseudonym of a user or a session, or None."""

    type: Global[RecommendationType]
    surface: Global[Surface] = Surface.HOME
    n: Global[int] = 10
    subject: Regional[str | None] = None
    recent: Regional[tuple[str, ...]] = ()
    """Item ids that the visitor brought along, oldest first (session lists)."""
    item: Global[str | None] = None
    category: Global[str | None] = None
    filters: Global[ItemFilters] = ItemFilters()
    among: Regional[tuple[str, ...]] = ()
    """Rank these items and no others, seen ones too; empty: the whole catalogue."""
    exclude: Regional[tuple[str, ...]] = ()
    vector: Regional[tuple[float, ...] | None] = None
    """The caller's own user vector, `[dim]`, for callers without a subject in this region."""
    vector_release: Global[str | None] = None
    context: Global[Context] = Context()
    arm: Global[str | None] = None
    """The experiment arm that a tester asks for, in place of the one that the subject's bucket gives."""
    timeout_ms: Global[float | None] = None
    """How long the asker waits, from when it sends: a duration, so that a wrong clock on either side does no harm."""
    explain: Global[bool] = False
    request_id: Regional[str] = ""
    """What exploration slots are drawn by: the same id draws the same. The region puts its own where there is none."""


class AwayRequest(GlobalMessage, frozen=True, kw_only=True):
    """An edge asks a region that is not the caller's home. Nothing here says who asks.

    `vector` is the one exception by the caller's own will (MISSION B6): the phone computed and sent it; the region
    ranks with it and stores nothing.
    """

    type: Global[RecommendationType]
    surface: Global[Surface] = Surface.HOME
    n: Global[int] = 10
    item: Global[str | None] = None
    category: Global[str | None] = None
    filters: Global[ItemFilters] = ItemFilters()
    vector: Global[tuple[float, ...] | None] = None
    vector_release: Global[str | None] = None
    context: Global[Context] = Context()
    timeout_ms: Global[float | None] = None
    """As in `HomeRequest`."""


class HomeAnswer(RegionalMessage, frozen=True, kw_only=True):
    """The home region's answer. `items` holds the page and spare items behind it."""

    items: Regional[tuple[SlateItem, ...]]
    release: Global[str]
    region: Global[str]
    personal: Global[bool]
    """True when the list belongs to one subject: only the home region's caches may keep it."""
    subject_version: Regional[int] = 0
    lifetime: Global[Lifetime]
    arm: Global[str] = "control"
    degraded: Global[tuple[str, ...]] = ()
    """Parts of the region that did not take part, each in a word: `ann`, `ranker`, `store`."""
    trace: Regional[tuple[StageTrace, ...]] = ()
    tags: Regional[tuple[str, ...]] = ()
    """What the list is about and made of, at most TAGS_MAX: `category:drama`, `brand:acme`, `item:<similar to this>`.
    A list can be purged by any of them, and by any of its items. MORE_TAGS stands last when there are more."""
    generated_at_ms: Global[int]
    precomputed: Global[bool] = False
    """Made before anybody asked: good for long, but only where every word about its subject was heard since."""


class AwayAnswer(GlobalMessage, frozen=True, kw_only=True):
    """An answer from a region that is not the caller's home."""

    items: Global[tuple[SlateItem, ...]]
    release: Global[str]
    region: Global[str]
    used_vector: Global[bool] = False
    lifetime: Global[Lifetime]
    degraded: Global[tuple[str, ...]] = ()
    generated_at_ms: Global[int]


class Invalidation(RegionalMessage, frozen=True, kw_only=True):
    """Told to every edge of a region over the grid. Exactly one of the groups below is filled in."""

    subject: Regional[str | None] = None
    subject_version: Regional[int] = 0
    consumed: Regional[tuple[str, ...]] = ()
    """Items that must leave the subject's cached lists at once."""
    opted_out: Regional[bool | None] = None
    erased: Regional[bool] = False
    """The subject was erased: nothing of it below `subject_version` is kept or shown, anywhere in the region."""
    release: Global[str | None] = None
    """The release that the region answers from now."""
    withdrawn: Global[tuple[str, ...]] = ()
    """Items that may not be shown any more, to anyone, in this region."""
    restored: Global[tuple[str, ...]] = ()
    published_items: Global[bool] = False
    """The region's published items say so: other nodes take it from these, and edges from here."""
    rules: Global[str | None] = None
    """Edition of the rules that lists are arranged by from now: lists made before need the region's word."""
    purged: Global[tuple[str, ...]] = ()
    """Names as in `HomeAnswer.tags`, `item:` for single items: lists made before that carry one, or hold the item,
    need the region's word."""
    kept_out: Global[str | None] = None
    """Digest of the items that hard rules keep out now (`infra.contracts.kept_out`): edges ask for them."""
    pulse: Global[str | None] = None
    """A listener's word to itself: nothing has changed, and the grid carries messages."""


INVALIDATION_TOPIC = "invalidations"
TAGS_MAX = 64
MORE_TAGS = "*"
"""A list that carries it is taken to carry every tag."""
PURGED_NAMES_MAX = 10_000
"""Of one message."""


class NoticesCall(GlobalMessage, frozen=True, kw_only=True):
    """An edge asks a node of its region what it may have missed. `withdrawn_digest` says which withdrawals it knows."""

    withdrawn_digest: Global[str] = ""
    kept_out_digest: Global[str] = ""


class Purge(GlobalMessage, frozen=True, kw_only=True):
    """One purge that a node remembers: its number there, and how long ago it was (a duration: no clock is compared)."""

    number: Global[int]
    age_ms: Global[float]
    purged: Global[tuple[str, ...]]


class Notices(GlobalMessage, frozen=True, kw_only=True):
    """What holds at a node now, for an edge that starts, that was cut off, or that makes sure."""

    boot: Global[str]
    """Changes when the node restarts; purges are numbered from 1 then."""
    release: Global[str | None]
    withdrawn: Global[tuple[str, ...] | None]
    """Every item withdrawn; None when the asker knows them."""
    withdrawn_digest: Global[str]
    purges: Global[tuple[Purge, ...]]
    kept_out: Global[tuple[ItemsKeptOut, ...] | None] = None
    """None when the asker knows them."""
    kept_out_digest: Global[str] = ""


class OptOutCall(RegionalMessage, frozen=True, kw_only=True):
    """A subject's choice, told by an edge of the home region."""

    subject: Regional[str]
    opted_out: Regional[bool]


class RightsCall(RegionalMessage, frozen=True, kw_only=True):
    """A subject wants what the region has of it, or to know why it sees an item, or all erased; told by a home edge."""

    subject: Regional[str]
    item: Regional[str] = ""
    """Why what is shown; empty for the other rights."""
    locale: Global[str] = "en"


class OptOutAnswer(RegionalMessage, frozen=True, kw_only=True):
    """The choice is durable; lists of the subject below `version` no longer hold."""

    version: Regional[int]


class RelayedCall(RegionalMessage, frozen=True, kw_only=True):
    """A traveller's call, put into a sealed box by an edge elsewhere and opened by the home region.

    The edge elsewhere cannot read the token's subject, and what crosses between regions is the sealed box only.
    """

    token: Regional[str]
    # Exactly one of the three is given.
    request: Regional[HomeRequest | None] = None
    events: Regional[bytes | None] = None
    """An encoded `EventBatch`."""
    opted_out: Regional[bool | None] = None


class SealedCall(GlobalMessage, frozen=True, kw_only=True):
    """The box that crosses: see `infra.plumbing.sealing`."""

    home: Global[str]
    sealed: Global[bytes]


class SealedAnswer(GlobalMessage, frozen=True, kw_only=True):
    """The answer's box: only the edge that sealed the call can open it."""

    status: Global[int]
    sealed: Global[bytes]
