"""What is inside a published release, read file by file and checked on the way. Needs no TensorFlow."""

import io
from collections.abc import Callable, Mapping
from functools import cached_property
from typing import Any, Final, TypeVar

import msgspec
import numpy as np
import numpy.typing as npt

from infra.contracts import release as names
from infra.contracts.features import (
    RANKING_FEATURES,
    FloatArray,
    HistoryInput,
    IntArray,
    ItemLinks,
    ItemTables,
    QueryState,
    encode_history,
    ranking_features,
)
from infra.plumbing.catalogue.reading import Catalogue, CatalogueError, check_catalogue
from infra.plumbing.errors import AtollError
from infra.plumbing.releases.messages import Interval

PARTS: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("towers", (names.USER_TOWER, names.ITEM_TOWER, names.FEDERATED_ADAPTER, names.STAND_INS)),
    ("ranker", (names.RANKER, names.LIGHT)),
    ("index", (names.SCANN_PREFIX, names.INDEX_REPORT)),
    ("vectors", (names.ITEM_VECTORS,)),
    ("catalogue", (names.CATALOGUE, names.LISTS)),
    ("texts", (names.EVALUATION, names.MODEL_CARD, names.RULES)),
)
"""Which files, or files below which folder, make a part; what is in none is of the part `tables`."""
T = TypeVar("T")
Runner = Callable[..., dict[str, np.ndarray[Any, Any]]]


class Figures(msgspec.Struct, frozen=True):
    """What is looked at of `evaluation.json`: figures and bootstrap intervals over users, by stage and baseline."""

    stage: dict[str, dict[str, float]]
    baselines: dict[str, dict[str, float]] = {}
    intervals: dict[str, dict[str, Interval]] = {}


class ContentError(AtollError):
    """A part of a release cannot be read as what it should be."""


class ReleaseContents:
    """The files of one release, decoded when they are asked for and then kept.

    Args:
        manifest: of the release.
        read: content of a file of it, verified.
    """

    def __init__(self, manifest: names.Manifest, read: Callable[[str], bytes]) -> None:
        self.manifest = manifest
        self._read = read

    @property
    def sizes(self) -> dict[str, int]:
        """Bytes by part."""
        totals = dict.fromkeys((*(part for part, _ in PARTS), "tables"), 0)
        for name, entry in self.manifest.files.items():
            totals[part_of(name)] += entry.length
        return totals

    @cached_property
    def evaluation(self) -> Figures:
        """How it was evaluated.

        Raises:
            ContentError: it has none that this version reads.
        """
        return self._decode(names.EVALUATION, Figures, msgspec.json.decode)

    @property
    def evaluation_json(self) -> msgspec.Raw:
        """All of `evaluation.json`, for scripts.

        Raises:
            ContentError: it is no JSON.
        """
        return self._decode(names.EVALUATION, msgspec.Raw, msgspec.json.decode)

    @cached_property
    def items(self) -> Catalogue:
        """The catalogue in row order.

        Raises:
            ContentError: a column of it does not read, or does not fit the others.
        """
        columns: dict[str, npt.NDArray[Any]] = {}

        def load(name: str) -> npt.NDArray[Any]:
            return columns[name] if name in columns else columns.setdefault(name, self.array(name))

        try:
            catalogue = Catalogue(load)
            check_catalogue(catalogue, load)
        except CatalogueError as error:
            raise ContentError(f"release {self.manifest.release_id}: {error.message}", fix=error.fix) from error
        return catalogue

    @cached_property
    def rows(self) -> Mapping[str, int]:
        """Row by item id."""
        texts = self.items.ids.texts
        return {texts[row]: row for row in range(len(texts))}

    @cached_property
    def vectors(self) -> FloatArray:
        """`[num_items, dim]`.

        Raises:
            ContentError: the array does not fit the catalogue.
        """
        vectors: FloatArray = self.array(names.ITEM_VECTORS)
        if vectors.ndim != 2 or len(vectors) != len(self.items):
            raise ContentError(
                f"{names.ITEM_VECTORS} does not fit the catalogue of release {self.manifest.release_id}."
            )
        return vectors

    @cached_property
    def tables(self) -> ItemTables:
        """What the ranker's features are made from.

        Raises:
            ContentError: an array does not read.
        """
        return ItemTables(
            vectors=self.vectors, popularity=self.array(names.ITEM_POPULARITY), trend=self.array(names.ITEM_TREND),
            strength=self.array(names.ITEM_STRENGTH), first_seen_s=self.array(names.ITEM_FIRST_SEEN),
            categories=self.array(names.ITEM_CATEGORIES), similar_rows=self.array(names.SIMILAR_ROWS),
            similar_scores=self.array(names.SIMILAR_SCORES),
            followers=self._links(names.FOLLOWER_ROWS, names.FOLLOWER_SCORES),
            soon=self._links(names.SOON_ROWS, names.SOON_SCORES), ease=self._links(names.EASE_ROWS, names.EASE_SCORES),
        )  # fmt: skip

    @property
    def stand_ins(self) -> int:
        """Items that central never heard of, in whose place phones' towers read a known one.

        Raises:
            ContentError: the array of them does not read.
        """
        if names.STAND_INS not in self.manifest.files:
            return 0
        array = self.array(names.STAND_INS)
        if array.ndim != 2:
            raise ContentError(f"{names.STAND_INS} of release {self.manifest.release_id} is no pair of rows.")
        return int(array.shape[1])

    def array(self, name: str) -> npt.NDArray[Any]:
        """The array in the file `name`.

        Raises:
            ContentError: it does not read.
        """
        try:
            return np.asarray(np.load(io.BytesIO(self._read(name)), allow_pickle=False))
        except (ValueError, EOFError, OSError) as error:
            raise ContentError(f"{name} of release {self.manifest.release_id} is not an array: {error}.") from error

    def _links(self, rows: str, scores: str) -> ItemLinks:
        return ItemLinks(self.array(rows), self.array(scores))

    def _decode(self, name: str, kind: type[T], decode: Any) -> T:
        try:
            decoded: T = decode(self._read(name), type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise ContentError(f"{name} of release {self.manifest.release_id} does not read: {error}.") from error
        return decoded

    @cached_property
    def recommender(self) -> "Recommender":
        """Its models, ready to be asked.

        Raises:
            ContentError: LiteRT does not open them.
        """
        return Recommender(self, user_tower=self._runner(names.USER_TOWER), ranker=self._runner(names.RANKER))

    def _runner(self, name: str) -> Runner:
        from ai_edge_litert.interpreter import Interpreter  # noqa: PLC0415 (only lists need it)

        try:
            runner: Runner = Interpreter(model_content=self._read(name), num_threads=1).get_signature_runner()
        except (ValueError, RuntimeError) as error:
            raise ContentError(f"{name} of release {self.manifest.release_id} is not a model: {error}.") from error
        return runner


class Recommender:
    """A release's own lists for a history: exact retrieval and its ranker, before any region's rules."""

    def __init__(self, contents: ReleaseContents, *, user_tower: Runner, ranker: Runner) -> None:
        self._contents, self._user_tower, self._ranker = contents, user_tower, ranker
        shape = contents.manifest.shape
        if shape.num_ranking_inputs != len(RANKING_FEATURES):
            raise ContentError(f"the ranker of release {contents.manifest.release_id} reads other features than these.")

    def ids(
        self, rows: IntArray, strengths: IntArray, times_s: npt.NDArray[np.float64], *, now_s: float, count: int
    ) -> tuple[str, ...]:  # fmt: skip
        """The `count` best item ids for a history (rows, oldest first) asked at `now_s`, what is in it left out."""
        shape, tables = self._contents.manifest.shape, self._contents.tables
        history = encode_history(rows, strengths, times_s, now_s=now_s, length=shape.history_length)
        inputs = {name: getattr(history, name)[None, :] for name in HistoryInput._fields}
        if shape.tower_reads_vectors:
            inputs["vectors"] = tables.vectors[np.maximum(history.items - 1, 0)][None]
        vector = self._user_tower(**inputs)["vector"][0]
        scores = tables.vectors @ vector
        scores[rows] = -np.inf
        wanted = min(shape.ranker_batch, len(scores) - len(set(rows.tolist())))
        candidates = np.argsort(-scores, kind="stable")[:wanted].astype(np.int32)
        state = QueryState(rows, strengths, times_s, now_s, vector.astype(np.float32))
        features = np.zeros((shape.ranker_batch, shape.num_ranking_inputs), dtype=np.float32)
        features[: len(candidates)] = ranking_features(state, candidates, tables)
        ranked = next(iter(self._ranker(features=features).values()))[: len(candidates), 0]
        best = candidates[np.argsort(-ranked, kind="stable")][:count]
        return tuple(self._contents.items.ids.texts[row] for row in best.tolist())


def part_of(name: str) -> str:
    """The part of a release that a file belongs to."""
    folder = f"{name.partition('/')[0]}/"
    return next((part for part, files in PARTS if name in files or folder in files), "tables")
