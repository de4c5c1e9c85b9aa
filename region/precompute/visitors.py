"""Whom this node has answered lately, and with which request: in memory only, the least recently served forgotten."""

from collections import OrderedDict
from collections.abc import Iterator

from msgspec.structs import replace

from infra.contracts.lists import ListKey
from infra.contracts.messages import Context, HomeRequest, RecommendationType

VISITORS_MAX = 20_000
MOMENTS_MAX = 32


class Visitors:
    """The last plain personal request of each subject, and when it asked."""

    def __init__(self, *, visitors_max: int = VISITORS_MAX) -> None:
        self._visitors_max = visitors_max
        self._kept: OrderedDict[str, tuple[HomeRequest, tuple[int, ...]]] = OrderedDict()

    def note(self, request: HomeRequest, *, now_ms: int) -> None:
        """The subject asked for a list. Requests that want something special are not what will be asked next time."""
        subject = request.subject
        if subject is None or not is_plain(request):
            return
        context = Context(
            locale=request.context.locale, device=request.context.device, country=request.context.country
        )  # fmt: skip
        kept = replace(request, context=context, timeout_ms=None, request_id="")
        moments = self._kept[subject][1] if subject in self._kept else ()
        self._kept[subject] = (kept, (*moments, now_ms)[-MOMENTS_MAX:])
        self._kept.move_to_end(subject)
        if len(self._kept) > self._visitors_max:
            self._kept.popitem(last=False)

    def all(self) -> Iterator[tuple[HomeRequest, tuple[int, ...]]]:
        """Last request and moments of every visitor."""
        return iter(tuple(self._kept.values()))

    def count_of(self, subject: str) -> int:
        """1 for a subject that is remembered, else 0."""
        return int(subject in self._kept)

    def subjects(self) -> tuple[str, ...]:
        """Everybody who is remembered."""
        return tuple(self._kept)

    def forget(self, subject: str) -> None:
        """Nothing of the subject is kept."""
        self._kept.pop(subject, None)


def is_plain(request: HomeRequest) -> bool:
    """Whether a request is the first page of somebody's own list, as a home page asks for it."""
    special = (
        request.recent, request.category, request.among, request.exclude, request.vector, request.arm, request.explain,
        not request.filters.empty,
    )  # fmt: skip
    return request.type is RecommendationType.PERSONAL and not any(special)


def key_of(request: HomeRequest) -> ListKey:
    """Where an edge looks for the answer to a plain request."""
    return ListKey(
        type=request.type, surface=request.surface, locale=request.context.locale, device=request.context.device,
        country=request.context.country, subject=request.subject,
    )  # fmt: skip
