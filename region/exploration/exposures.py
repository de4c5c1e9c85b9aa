"""What exploration slots showed, with the chance of everything that might have stood there: the log of a bandit.

On the node's own disk, bounded, for off-policy estimates (`region.exploration.estimating`); it never leaves the
region. Which pages are logged depends on the time alone, never on what was drawn.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.contracts.messages import HomeRequest, SlateItem
from infra.contracts.residency import Global, Regional, RegionalMessage
from region.exploration.drawing import Drawn
from region.keeping.files import FileKeys
from region.sampling.journal import Journal, read_records

FILE = "exposures.ndjson"
GAP_MIN_S = 0.02
"""At most fifty pages a second are logged."""
PENDING_MAX = 1_000
BYTES_MAX = 64 << 20
LIFE_MS = 30 * 86_400_000


class Slot(RegionalMessage, frozen=True, kw_only=True):
    """One exploration slot: its arms, best by ranking first, the chance of each and what was known of each."""

    position: Global[int]
    arms: Regional[tuple[str, ...]]
    chances: Regional[tuple[float, ...]]
    clicks: Regional[tuple[float, ...]]
    impressions: Regional[tuple[float, ...]]
    new: Regional[tuple[bool, ...]]
    shown: Regional[int]
    """Index of the arm that was drawn; its chance is the item's propensity, given what stands above it."""


class Exposure(RegionalMessage, frozen=True, kw_only=True):
    """One page as the region made it. Edges keep it for a moment and may leave items out that were consumed since."""

    exposure: Regional[str]
    """Id of the request that the draws come from; the same id draws the same again."""
    subject: Regional[str]
    at_ms: Regional[int]
    surface: Global[str]
    release: Global[str]
    rules: Global[str]
    """Edition of the region's rules."""
    prior_rate: Regional[float]
    page: Regional[tuple[str, ...]]
    propensities: Regional[tuple[float, ...]]
    """Of the item at each place of the page; 1 where nothing was drawn."""
    slots: Regional[tuple[Slot, ...]]

    @property
    def written_ms(self) -> int:
        """When the page was made."""
        return self.at_ms


class ExposureLog(Journal[Exposure]):
    """The exposures of one node."""

    def __init__(
        self, directory: Path, *, gap_min_s: float = GAP_MIN_S, bytes_max: int = BYTES_MAX, life_ms: int = LIFE_MS,
        keys: FileKeys | None = None,
    ) -> None:  # fmt: skip
        super().__init__(
            directory / FILE, Exposure, pending_max=PENDING_MAX, bytes_max=bytes_max, life_ms=life_ms, keys=keys
        )  # fmt: skip
        self._gap_min_s = gap_min_s
        self._last_s = float("-inf")

    def offer(self, exposure: Exposure, *, monotonic_s: float) -> bool:
        """Keep an exposure if one is due; whether it was kept."""
        if monotonic_s - self._last_s < self._gap_min_s:
            return False
        self._last_s = monotonic_s
        self.note(exposure)
        return True


def read_exposures(directory: Path, keys: FileKeys | None = None) -> list[Exposure]:
    """Every exposure in a state directory, the oldest first."""
    return read_records(directory / FILE, Exposure, keys)


@dataclass(frozen=True, slots=True)
class DrawnItems:
    """A slot as it was drawn, with the items that its places stand for."""

    drawn: Drawn
    items: tuple[str, ...]

    @property
    def is_new(self) -> bool:
        """Whether it shows a new item."""
        return bool(self.drawn.known.new[self.drawn.shown])

    def slot(self) -> Slot:
        """As it is logged."""
        drawn = self.drawn
        return Slot(
            position=drawn.position, arms=self.items, chances=tuple(drawn.chances.tolist()),
            clicks=tuple(drawn.known.clicks.tolist()), impressions=tuple(drawn.known.impressions.tolist()),
            new=tuple(drawn.known.new.tolist()), shown=drawn.shown,
        )  # fmt: skip


def exposure_of(
    request: HomeRequest, slate: Sequence[SlateItem], drawn: Sequence[DrawnItems], *,
    now_s: float, release: str, edition: str, prior_rate: float,
) -> Exposure:  # fmt: skip
    """The record of a page. `slate` holds the page and spare items behind it, which nobody was shown yet."""
    page = tuple(item.item for item in slate[: request.n])
    propensities = [1.0] * len(page)
    for one in drawn:
        propensities[one.drawn.position - 1] = float(one.drawn.chances[one.drawn.shown])
    return Exposure(
        exposure=request.request_id, subject=request.subject or "", at_ms=round(now_s * 1000),
        surface=request.surface.value, release=release, rules=edition, prior_rate=prior_rate, page=page,
        propensities=tuple(propensities), slots=tuple(one.slot() for one in drawn),
    )  # fmt: skip
