"""What this node has lately shown to whom: for caps, and for stability between page views.

In memory only, bounded in subjects, pages and time; a node that starts anew knows nothing and shows what it would
show to anyone. Edges ask one node for one subject as long as it is well, so one node's memory is nearly everyone's.
"""

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass

import numpy as np

from infra.contracts.features import IntArray

SUBJECTS_MAX = 20_000
PAGES_MAX = 8


@dataclass(frozen=True, slots=True, eq=False)
class Page:
    """Rows of one release, best first, that a subject was given on a surface at a moment."""

    at_s: float
    release: str
    surface: str
    rows: IntArray


class PageHistory:
    """The last pages of each subject, the least recently served subject forgotten first. Safe between threads."""

    def __init__(self, *, subjects_max: int = SUBJECTS_MAX, pages_max: int = PAGES_MAX) -> None:
        self._subjects_max = subjects_max
        self._pages_max = pages_max
        self._pages: OrderedDict[str, deque[Page]] = OrderedDict()
        self._mutex = threading.Lock()

    def remember(self, subject: str, page: Page) -> None:
        """The subject was given this page."""
        with self._mutex:
            pages = self._pages.setdefault(subject, deque(maxlen=self._pages_max))
            pages.append(page)
            self._pages.move_to_end(subject)
            if len(self._pages) > self._subjects_max:
                self._pages.popitem(last=False)

    def forget(self, subject: str) -> None:
        """Nothing about the subject is kept."""
        with self._mutex:
            self._pages.pop(subject, None)

    def count_of(self, subject: str) -> int:
        """How many pages of the subject are kept."""
        return len(self._of(subject))

    def subjects(self) -> tuple[str, ...]:
        """Whose pages are kept."""
        with self._mutex:
            return tuple(self._pages)

    def last(self, subject: str, *, release: str, surface: str, since_s: float) -> IntArray | None:
        """The last page on this surface, of this release and not older than `since_s`; None without one."""
        pages = self._of(subject)
        return next(
            (
                page.rows
                for page in reversed(pages)
                if page.surface == surface and page.release == release and page.at_s >= since_s
            ),
            None,
        )

    def often(self, subject: str, *, release: str, since_s: float, times: int) -> IntArray:
        """Rows that were on at least `times` pages since then, ascending."""
        rows = [page.rows for page in self._of(subject) if page.release == release and page.at_s >= since_s]
        if len(rows) < times:
            return np.zeros(0, dtype=np.int32)
        shown, counts = np.unique(np.concatenate(rows), return_counts=True)
        return shown[counts >= times].astype(np.int32)

    def __len__(self) -> int:
        return len(self._pages)

    def _of(self, subject: str) -> tuple[Page, ...]:
        with self._mutex:
            return tuple(self._pages.get(subject, ()))
