"""What is said about one subject: only inside its region, and to itself."""

import msgspec

from infra.contracts.events import LoggedEvent
from infra.contracts.messages import HomeRequest
from infra.contracts.residency import Global, Regional, RegionalMessage
from region.exploration.exposures import Exposure
from region.keeping.deposits import Deposit
from region.privacy.accesses import Access, AccessHead
from region.sampling.served import ServedSample
from region.store.port import Erasure, ExportedRow

EXPORT_FORMAT = "atoll-subject-export/1"
RECEIPT_FORMAT = "atoll-erasure-receipt/1"


class SubjectCall(RegionalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Whom it is about: a user by the id that its application knows, or any subject by its pseudonym; one of them."""

    user: Regional[str | None] = None
    subject: Regional[str | None] = None
    item: Regional[str] = ""
    """Of which item it is asked why it is shown."""
    locale: Global[str] = "en"


class ExportedEvent(RegionalMessage, frozen=True, kw_only=True):
    """One event of the log, with its place there."""

    partition: Regional[int]
    offset: Regional[int]
    logged: Regional[LoggedEvent]


class ExportedLetter(RegionalMessage, frozen=True, kw_only=True):
    """An event that could not be applied, and why."""

    noted_ms: Regional[int]
    reason: Regional[str]
    logged: Regional[LoggedEvent | None]
    content: Regional[bytes] = b""
    """What the record says where it cannot be read as an event; base64."""


class SubjectExport(RegionalMessage, frozen=True, kw_only=True):
    """Everything the region has of a subject."""

    format: Global[str] = EXPORT_FORMAT
    region: Global[str]
    node: Regional[str] = ""
    """Letters, samples, exposures, requests, memory and accesses are this node's own; a region of several is asked node
    by node for those. Row, log and erasure are all that the region has."""
    exported_ms: Regional[int]
    subject: Regional[str]
    opted_out: Regional[bool]
    row: Regional[ExportedRow | None]
    """What lists are made from: history, counters, leanings, session."""
    events: Regional[tuple[ExportedEvent, ...]]
    """The event log, in its order."""
    unreadable: Regional[int]
    """Dead letters that name the subject."""
    letters: Regional[tuple[ExportedLetter, ...]]
    """They themselves."""
    samples: Regional[tuple[ServedSample, ...]]
    """Requests whose features were sampled."""
    exposures: Regional[tuple[Exposure, ...]]
    """Pages whose exploration slots were logged."""
    requests: Regional[tuple[HomeRequest, ...]]
    """Requests that this node has in memory, for dry runs of rules."""
    memory: Regional[dict[str, int]]
    """Further things that this node has in memory, by place."""
    erasure: Regional[Erasure | None]
    """The mark of an earlier erasure."""
    accesses: Regional[tuple[Access, ...]]
    """Who asked this node for the subject's data by name, or changed it, and when (GDPR Art. 15(1)(c))."""
    complete: Regional[bool]
    """False: the log holds more events than one export takes; the oldest are here."""


class PlaceReceipt(RegionalMessage, frozen=True, kw_only=True):
    """What became of one place."""

    place: Global[str]
    what: Global[str]
    """What is counted."""
    before: Regional[int]
    removed: Regional[int]
    after: Regional[int]
    """Counted anew, by a read of its own, when everything was done."""
    remains: Regional[str] = ""
    """What cannot be made to go at once, and when it will."""
    deposits: Regional[tuple[Deposit, ...] | msgspec.UnsetType] = msgspec.UNSET
    """Where bytes of it may lie beside the place that was emptied, each with its proof. Receipts of before have none,
    and are written as they were signed."""


class ErasureReceipt(RegionalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """That a subject was erased. It names the subject by its `erasure_mark` only."""

    format: Global[str] = RECEIPT_FORMAT
    region: Global[str]
    node: Regional[str]
    mark: Regional[str]
    erased_ms: Regional[int]
    """What happened until then has gone and does not come back."""
    finished_ms: Regional[int]
    places: Regional[tuple[PlaceReceipt, ...]]
    edges_told: Regional[bool]
    """Whether the grid took the word to the edges and other nodes; if not, it is told again until the grid does."""
    complete: Regional[bool]
    """Every place was empty at the end, and what bytes lie anywhere open for nobody (`keeping.deposits.SETTLED`)."""
    accesses: Regional[AccessHead | None] = None
    """Where the node's account of accesses stood then: who keeps this receipt can tell if it is written anew."""
    not_reached: Regional[tuple[str, ...]]
    """What this erasure does not touch, and why."""
    looked_ms: Regional[int | msgspec.UnsetType] = msgspec.UNSET
    """When a region that was asked later counted and looked anew; not there in the receipt of the erasure itself."""


class SignedReceipt(RegionalMessage, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A receipt and the region's Ed25519 signature over it, base64."""

    receipt: Regional[ErasureReceipt]
    signature: Global[str]


class AccessPage(RegionalMessage, frozen=True, kw_only=True):
    """Entries of the account of accesses, oldest first, and where it stands."""

    entries: Regional[tuple[Access, ...]]
    head: Regional[AccessHead]
