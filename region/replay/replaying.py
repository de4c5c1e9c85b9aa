"""Recorded requests through the served funnel: the same code, rules and index as a region, without its store."""

import itertools
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import msgspec

from infra.contracts.messages import HomeRequest, RecommendationType
from infra.contracts.release import Manifest
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.files import write_atomically
from infra.plumbing.progress import Progress
from region.funnel.compute import ComputePool
from region.funnel.funnel import Funnel
from region.funnel.live import LiveTrend
from region.funnel.plans import Budget
from region.funnel.recording import Recorder
from region.funnel.release import LoadedRelease, open_release
from region.funnel.ruling import Rulings
from region.funnel.understanding import Call
from region.retrieval.process import RetrievalProcess
from region.rules.book import RuleBook
from region.rules.regional import Withdrawals
from region.store.port import Interactions, UserRow

ANSWER_ITEMS = 50
BUDGET_S = 60.0
"""Nobody waits for an offline answer: no stage is left out for lack of time."""
MANIFEST_FILE = "manifest.json"


class ReplayRequest(msgspec.Struct, frozen=True, kw_only=True):
    """One user of a dataset at one moment: the history then, oldest first, in three lists of one length."""

    user: str
    items: list[str]
    strengths: list[int]
    times_s: list[float]
    now_s: float


def read_requests(path: Path, *, limit: int | None = None) -> list[ReplayRequest]:
    """The requests in the MessagePack file at `path`, the first `limit` of them.

    Raises:
        InvalidInputError: the file is missing or malformed; says where.
    """
    try:
        requests = msgspec.msgpack.decode(path.read_bytes(), type=list[ReplayRequest])
    except OSError as error:
        raise InvalidInputError(f"the requests {path} cannot be read: {error.strerror}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path} does not hold requests: {error}.") from error
    for place, request in enumerate(requests):
        if not len(request.items) == len(request.strengths) == len(request.times_s):
            raise InvalidInputError(f"request {place} of {path} has lists of different lengths.")
    return requests[:limit]


def read_manifest(release: Path) -> Manifest:
    """The manifest of the release directory.

    Raises:
        InvalidInputError: there is none that can be read.
    """
    try:
        return msgspec.json.decode((release / MANIFEST_FILE).read_bytes(), type=Manifest)
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(
            f"{release} is not a release directory: {MANIFEST_FILE} cannot be read.", fix="Name the bundle's directory."
        ) from error


def write_answers(path: Path, answers: Mapping[str, Sequence[str]]) -> None:
    """Write the answers as a MessagePack map of user to item ids, best first; the whole file or nothing.

    Raises:
        OSError: the disk does not take it.
    """
    write_atomically(path, msgspec.msgpack.encode(answers))


async def answer_all(
    requests: Sequence[ReplayRequest], release: LoadedRelease, funnel: Funnel, *, clock: Clock, progress: Progress
) -> dict[str, list[str]]:
    """Each user's slate as item ids, ANSWER_ITEMS at most, computed one after the other.

    Raises:
        InvalidInputError: a part of the funnel did not take part, so the answers would not be the served ones.
    """
    answers: dict[str, list[str]] = {}
    for done, request in enumerate(requests, start=1):
        recorder = Recorder(clock=clock)
        call = Call(
            request=HomeRequest(type=RecommendationType.PERSONAL, n=ANSWER_ITEMS),
            row=_row(request),
            release=release,
            now_s=request.now_s,
            budget=Budget(clock.monotonic_s(), BUDGET_S),
            recorder=recorder,
        )
        slate = await funnel.run(call)
        if recorder.degraded:
            raise InvalidInputError(
                f"the funnel answered request {done} without {', '.join(recorder.degraded)}.",
                fix="Check the release: a replay counts only with every part.",
            )
        answers[request.user] = [item.item for item in slate[:ANSWER_ITEMS]]
        progress.advance(done, len(requests), "requests replayed")
    return answers


@asynccontextmanager
async def serving(directory: Path, *, clock: Clock, region: str = "") -> AsyncIterator[tuple[LoadedRelease, Funnel]]:
    """A release with its retrieval process, and a funnel; closed at the end of the block.

    Raises:
        AtollError: the release cannot be served.
    """
    numbers = itertools.count()
    async with AsyncExitStack() as stack:
        work = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="atoll-replay-")))

        async def start_retrieval(release: Path, _manifest: Manifest) -> RetrievalProcess:
            process = RetrievalProcess(release=release, socket=work / f"{next(numbers)}.sock", clock=clock)
            await process.start()
            return process

        release = await open_release(
            directory, read_manifest(directory), region=region, tower_sets=1, start_retrieval=start_retrieval
        )
        stack.push_async_callback(release.close)
        await release.warm()
        compute = ComputePool(threads=1, pending_max=4)
        stack.callback(compute.close)
        rulings = Rulings(RuleBook(work, region=region), on_error=lambda _rule: None)
        yield (
            release,
            Funnel(compute=compute, live=LiveTrend(clock=clock), withdrawals=Withdrawals(work), rulings=rulings),
        )


def _row(request: ReplayRequest) -> UserRow:
    times_ms = tuple(round(time_s * 1000) for time_s in request.times_s)
    history = Interactions(tuple(request.items), tuple(request.strengths), times_ms)
    return UserRow(subject="", history=history)
