"""The release: one immutable, content-addressed bundle, and what is in it (MISSION D3).

A release is a manifest plus blobs. The manifest maps file names to blobs by SHA-256; blobs are shared between
releases, so that what did not change is not fetched again. In the TUF repository the targets are::

    manifests/<release_id>.json     the manifest
    blobs/<sha256>                  one file of one or more releases
    deltas/<sha256>.<sha256>        what makes the second blob of the first (`infra.plumbing.deltas`)
    channels/<channel>.json         a `ChannelPointer`: which release a channel recommends

Below `regions/<region>/` central's targets say nothing: that folder is delegated to the region's own keys. What the
region signs there (its rules) stays in the region; only the delegation is central's.

`release_id` is the first 20 hex digits of the SHA-256 of the manifest's canonical JSON, so a manifest that was
changed does not carry its own name any more.

All rows (`[num_items, ...]`) are in catalogue order; the towers' item input is row + 1, with 0 for padding.
"""

import hashlib
import re
from typing import Annotated

import msgspec

from infra.contracts.messages import ReasonCode, SlateItem, Source
from infra.contracts.reasons import reason
from infra.contracts.residency import Global, GlobalMessage

FORMAT_VERSION = 3
"""3: the catalogue in columns. A release is immutable: one of another version is refused, and built again."""
RELEASE_ID_PATTERN = re.compile(r"[0-9a-f]{20}")

USER_TOWER = "user_tower.tflite"
"""LiteRT; inputs as `infra.contracts.features.HistoryInput`, each `[1, history_length] int32`, named by field (and
`vectors`, see `ModelShape.tower_reads_vectors`);
output `[1, dim] float32`."""
ITEM_TOWER = "item_tower.tflite"
"""LiteRT; inputs `categories [1, num_categories] float32`, one column of zeros where there are none, `year [1] int32`
(`infra.contracts.features.year_slots`) and `title [1, TITLE_WORDS] int32` (`title_slots`), both missing in older
releases; output `[1, dim] float32`: a vector for an item that has metadata only."""
RANKER = "ranker.tflite"
"""LiteRT; input `features [ranker_batch, num_ranking_inputs] float32`; output `[ranker_batch, num_heads] float32`,
probabilities, head 0 is the one to rank by."""
SCANN_PREFIX = "scann/"
"""Files of a serialised ScaNN searcher over ITEM_VECTORS, dot product, relative paths."""
ITEM_VECTORS = "item_vectors.npy"  # [num_items, dim] float32
ITEM_POPULARITY = "item_popularity.npy"  # [num_items] float32, log1p(interactions) / its maximum
ITEM_TREND = "item_trend.npy"  # [num_items] float32, same over the last TREND_WINDOW_S of the data
ITEM_CATEGORIES = "item_categories.npy"  # [num_items, num_categories] float32, each row sums to 1 or 0
SIMILAR_ROWS = "similar_rows.npy"  # [num_items, num_similar] int32, best first, -1 behind the last
SIMILAR_SCORES = "similar_scores.npy"  # [num_items, num_similar] float32 in [0, 1]
ITEM_STRENGTH = "item_strength.npy"  # [num_items] float32 in [0, 1], mean strength of its interactions, shrunk
ITEM_FIRST_SEEN = "item_first_seen.npy"  # [num_items] float64, Unix seconds of its first interaction
FOLLOWER_ROWS = "follower_rows.npy"  # [num_items, GAP_CLASSES, length] int32, best first, -1 behind the last
FOLLOWER_SCORES = "follower_scores.npy"  # the same shape, float32 in [0, 1], 0 behind the last
SOON_ROWS = "soon_rows.npy"  # [num_items, length] int32, likewise
SOON_SCORES = "soon_scores.npy"  # [num_items, length] float32 in [0, 1]
EASE_ROWS = "ease_rows.npy"  # [num_items, length] int32, furthest from zero first, -1 behind the last
EASE_SCORES = "ease_scores.npy"  # [num_items, length] float32, of both signs
LIGHT = "light.json"  # LightRanker; a release without it is thinned by LIGHT_WEIGHTS
INDEX_REPORT = "index.json"  # IndexReport; a release without it is searched as its index was built
REORDER_COST = 50.0
"""A reordered candidate is read in half precision, a scanned one as a few nibbles."""
CATALOGUE = "catalogue/"
"""Folder of the CatalogueItems in row order, in columns that are mapped and read row by row:
`infra.plumbing.catalogue`."""
CATALOGUE_COLUMNS = (
    "ids.slots", "ids.starts", "ids.hashes", "ids.places", "titles.slots", "titles.starts", "attributes.slots",
    "attributes.starts", "years", "interactions", "prices", "created", "brands", "creators", "labels", "label_starts",
    "by_popularity",
)  # fmt: skip
"""One array of each item, or of each item's texts."""
CATALOGUE_GROUPS = ("categories", "makers", "values")
"""What items have in common, by name: `<group>.slots`, `.starts`, `.hashes`, `.places`, `.rows`, `.row_starts`."""
CATALOGUE_FILES = tuple(
    f"{CATALOGUE}{name}.npy"
    for name in (
        *CATALOGUE_COLUMNS,
        *(
            f"{group}.{part}"
            for group in CATALOGUE_GROUPS
            for part in ("slots", "starts", "hashes", "places", "rows", "row_starts")
        ),
    )
)
LISTS = "lists.json"  # ReleaseLists
EVALUATION = "evaluation.json"
MODEL_CARD = "model_card.md"
RULES = "rules.json"  # Rules
FEDERATED_ADAPTER = "adapter.npy"  # [dim, dim] float32: the tower's last linear map, which federated rounds train
STAND_INS = "stand_ins.npy"
"""`[2, n] int32`: catalogue rows of items that central never heard of, ascending, and of the known items that phones'
towers read in their place (`infra.plumbing.releases.stand_ins`). Without it phones leave such items out."""

MOVED_ROWS, MOVES, MOVED_READS = "rows", "moves", "reads"
"""Arrays of the `items.npz` that a federated run over items leaves: catalogue rows, `[moved, dim]` to be added, and the
rows that towers read in their place (-1: nothing), missing in what older runs left."""

REQUIRED_FILES = frozenset(
    {
        USER_TOWER, ITEM_TOWER, RANKER, ITEM_VECTORS, ITEM_POPULARITY, ITEM_TREND, ITEM_CATEGORIES, SIMILAR_ROWS,
        SIMILAR_SCORES, ITEM_STRENGTH, ITEM_FIRST_SEEN, FOLLOWER_ROWS, FOLLOWER_SCORES, SOON_ROWS, SOON_SCORES,
        EASE_ROWS, EASE_SCORES, *CATALOGUE_FILES, LISTS, EVALUATION, MODEL_CARD, RULES, FEDERATED_ADAPTER,
    }
)  # fmt: skip

TREND_WINDOW_S = 14 * 86_400
Sha256 = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class CatalogueItem(GlobalMessage, frozen=True, kw_only=True, gc=False):
    """An item as people and filters see it. In no cycle: the collector passes many of them by."""

    item: Global[str]
    title: Global[str] = ""
    categories: Global[tuple[str, ...]] = ()
    year: Global[int | None] = None
    interactions: Global[int] = 0
    brand: Global[str] = ""
    creator: Global[str] = ""
    price: Global[float | None] = None
    created_s: Global[float | None] = None
    """When it came into the catalogue, Unix seconds; None: not known."""
    attributes: Global[dict[str, str]] = msgspec.field(default_factory=dict)
    """Whatever else `items.csv` says of it, by column: `stock`, `rating`, `countries`, ..."""


class AudienceLists(GlobalMessage, frozen=True, kw_only=True):
    """Lists that a region starts from: item ids, best first, by ``all``, ``region:<name>``, ``category:<name>``."""

    popular: Global[dict[str, tuple[str, ...]]]
    trending: Global[dict[str, tuple[str, ...]]]


class ReleaseLists(AudienceLists, frozen=True, kw_only=True):
    """Lists that answer when nothing else does; the only part of a release that an edge holds.

    Keys of `similar`: ids of the most popular items. `titles`: of items that stand in the lists.
    """

    similar: Global[dict[str, tuple[str, ...]]]
    titles: Global[dict[str, str]]


class Rules(GlobalMessage, frozen=True, kw_only=True):
    """Defaults for re-ranking; a region may put its own over them."""

    diversity: Global[float] = 0.2
    """MMR weight of dissimilarity, 0 (none) to 1."""
    category_share_max: Global[float] = 0.6
    """No category may hold more than this share of a slate."""
    withdrawn: Global[tuple[str, ...]] = ()


class IndexTrial(GlobalMessage, frozen=True, kw_only=True):
    """One setting that was tried.

    `recall`: recall@100 against exact search; `cost`: vectors looked at, a reordered one counting as REORDER_COST.
    """

    leaves_to_search: Global[int]
    reorder: Global[int]
    recall: Global[float]
    cost: Global[float]


class IndexReport(GlobalMessage, frozen=True, kw_only=True):
    """How the index was tuned and why: what a region searches with. `kind` is `exact` or `tree`."""

    kind: Global[str]
    num_items: Global[int]
    reason: Global[str]
    leaves: Global[int] = 0
    leaves_to_search: Global[int] = 0
    reorder: Global[int] = 0
    recall: Global[float] = 1.0
    recall_wanted: Global[float] = 1.0
    queries: Global[int] = 0
    trials: Global[tuple[IndexTrial, ...]] = ()


class LightRanker(GlobalMessage, frozen=True, kw_only=True):
    """L1: one weight for each of LIGHT_FEATURES, distilled from the ranker, and what that brought on held-out users.

    `recall_before`, `recall_after`: share of the ranker's ten best of a whole pool that are among the first `kept` of
    L1's order, by LIGHT_WEIGHTS and by these weights.
    """

    weights: Global[dict[str, float]]
    kept: Global[int]
    recall_before: Global[float]
    recall_after: Global[float]
    users: Global[int]


class FileEntry(GlobalMessage, frozen=True, kw_only=True):
    """One file of the bundle."""

    sha256: Global[Sha256]
    length: Global[int]


class ModelShape(GlobalMessage, frozen=True, kw_only=True, omit_defaults=True):
    """The sizes that the serving side must know before it opens a file.

    Defaults are left out, so that a manifest of before a field existed still has the bytes that were signed.
    """

    dim: Global[int]
    history_length: Global[int]
    num_items: Global[int]
    num_categories: Global[int]
    ranker_batch: Global[int]
    num_ranking_inputs: Global[int]
    heads: Global[tuple[str, ...]]
    categories: Global[tuple[str, ...]]
    tower_reads_vectors: Global[bool] = False
    """USER_TOWER holds no item table: beside the history it takes the items' vectors out of ITEM_VECTORS, as its input
    `vectors [1, history_length, dim] float32`. So it is with catalogues that a flatbuffer cannot hold."""


class Manifest(GlobalMessage, frozen=True, kw_only=True):
    """What a release is made of, where it comes from and how good it is."""

    format_version: Global[int]
    created_at_ms: Global[int]
    dataset: Global[str]
    dataset_sha256: Global[str]
    parent: Global[str | None]
    """The release this one was derived from or compared with."""
    origin: Global[str]
    """`central` or `federated`."""
    shape: Global[ModelShape]
    metrics: Global[dict[str, float]]
    """Headline figures of EVALUATION: `hr10`, `ndcg10`, ..."""
    gates: Global[dict[str, bool]]
    files: Global[dict[str, FileEntry]]

    @property
    def release_id(self) -> str:
        """First 20 hex digits of the SHA-256 of `canonical_bytes`."""
        return hashlib.sha256(self.canonical_bytes()).hexdigest()[:20]

    @property
    def content_sha256(self) -> str:
        """Hash over what the release does: all files but the index and the two reports.

        Same data, code and seed on one machine give the same one. The reports tell how the release was made and how
        long that took. The index follows from the vectors, and is built anew or continued from the release before;
        ScaNN draws the centres of its partitions from the system's entropy, whatever seed it is given. `release_id`
        covers all of it, and the moment of the build.
        """
        parts = [
            f"{name}\0{entry.sha256}\n" for name, entry in sorted(self.files.items()) if not _varies_by_build(name)
        ]
        return hashlib.sha256("".join(parts).encode()).hexdigest()

    def canonical_bytes(self) -> bytes:
        """JSON with sorted keys and no white space: what is hashed, signed and stored."""
        return msgspec.json.encode(self, order="sorted")


def _varies_by_build(name: str) -> bool:
    return name in (EVALUATION, MODEL_CARD, INDEX_REPORT) or name.startswith(SCANN_PREFIX)


class ChannelPointer(GlobalMessage, frozen=True, kw_only=True):
    """What a channel (`stable`, `candidate`) recommends to the regions that follow it."""

    channel: Global[str]
    release: Global[str]
    published_at_ms: Global[int]


def manifest_target(release_id: str) -> str:
    """TUF target path of a release's manifest."""
    return f"manifests/{release_id}.json"


def blob_target(sha256: str) -> str:
    """TUF target path of one blob."""
    return f"blobs/{sha256}"


def delta_target(before: str, after: str) -> str:
    """TUF target path of what makes the blob `after` of the blob `before` (by their hashes). Few pairs have one."""
    return f"deltas/{before}.{after}"


def channel_target(channel: str) -> str:
    """TUF target path of a channel's pointer."""
    return f"channels/{channel}.json"


def region_role(region: str) -> str:
    """TUF role that a region's own keys sign as."""
    return f"region-{region}"


def region_target(region: str, name: str) -> str:
    """TUF target path of what a region signs itself; `*` names all of it."""
    return f"regions/{region}/{name}"


def slate_from_list(
    items: tuple[str, ...],
    *,
    code: ReasonCode,
    anchor: str = "",
    titles: dict[str, str] | None = None,
    locale: str = "en",
) -> tuple[SlateItem, ...]:
    """Slate items for a ready-made list of a release, scores falling from 1 by rank."""
    why = reason(code, anchor, locale=locale)
    names = titles or {}
    return tuple(
        SlateItem(item=item, score=1.0 / (rank + 1), source=Source.RELEASE_LISTS, reason=why, title=names.get(item, ""))
        for rank, item in enumerate(items)
    )
