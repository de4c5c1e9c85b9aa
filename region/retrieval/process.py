"""`RetrievalProcess`: starts the retrieval process of one release, keeps it running, and takes it along when it ends.

The child watches a pipe that only the parent holds open: a parent that is killed leaves no child behind.
"""

import asyncio
import collections
import contextlib
import logging
import sys
from pathlib import Path

from infra.contracts.features import FloatArray, IntArray
from infra.plumbing.clock import Clock
from region.retrieval.child import Child, start_child
from region.retrieval.client import IN_FLIGHT_MAX, RetrievalClient
from region.retrieval.errors import RetrievalUnavailableError
from region.retrieval.protocol import Hello
from region.retrieval.server import READY, check_socket_path

START_TIMEOUT_S = 120.0
STOP_TIMEOUT_S = 2.0
STABLE_AFTER_S = 30.0
DELAY_FIRST_S = 0.1
DELAY_MAX_S = 5.0
STDERR_LINES_KEPT = 20
_ROOT = Path(__file__).resolve().parents[2]
_log = logging.getLogger(__name__)


def restart_delay_s(failures: int) -> float:
    """How long to wait before the next start: not at all after the first end, then doubling up to DELAY_MAX_S."""
    return 0.0 if failures <= 1 else min(DELAY_MAX_S, DELAY_FIRST_S * 2.0 ** (failures - 2))


class RetrievalProcess:
    """One release's retrieval process and a client of it. Belongs to one event loop.

    Args:
        release: directory of the pulled release.
        socket: where it is to listen; a path of its own for each process.
        clock: tells a process that ran well from one that keeps dying.
        python: the interpreter of the region's environment.
        threads: searches at once inside of the process, beside its loop; 0: one, on the loop.
        start_timeout_s: how long loading and warming may take.
        in_flight_max: searches at once on this side.
        metrics_host: where the process serves its `/metrics`, on a free port; empty: nowhere.
        gives_way: another release answers while this one loads, and comes first.
    """

    def __init__(
        self,
        *,
        release: Path,
        socket: Path,
        clock: Clock,
        python: str = sys.executable,
        threads: int = 0,
        start_timeout_s: float = START_TIMEOUT_S,
        in_flight_max: int = IN_FLIGHT_MAX,
        metrics_host: str = "",
        gives_way: bool = False,
    ) -> None:
        check_socket_path(socket.absolute())
        self._release = release.resolve()
        self._socket = socket.absolute()
        self._clock = clock
        self._python = python
        self._threads = threads
        self._start_timeout_s = start_timeout_s
        self._client = RetrievalClient(socket=self._socket, in_flight_max=in_flight_max)
        self._child: Child | None = None
        self._said: collections.deque[str] = collections.deque(maxlen=STDERR_LINES_KEPT)
        self._listening: asyncio.Task[None] | None = None
        self._watching: asyncio.Task[None] | None = None
        self._metrics_host = metrics_host
        self._gives_way = gives_way
        self._metrics_address = ""
        self.restarts = 0

    @property
    def pid(self) -> int | None:
        """Of the running process, or None."""
        return self._child.pid if self._child is not None and self._child.returncode is None else None

    @property
    def release(self) -> str:
        """Whose index it serves."""
        return self._release.name

    @property
    def metrics_address(self) -> str:
        """`host:port` of the running process's metrics page; empty while there is none."""
        return self._metrics_address if self.pid is not None else ""

    async def start(self) -> Hello:
        """Start it and wait until it is loaded and warm.

        Raises:
            RetrievalUnavailableError: it ended or was not ready in time; says what it said last.
        """
        try:
            await self._spawn()
            hello = await self._client.connect()
        except BaseException:
            await self.close()
            raise
        self._watching = asyncio.create_task(self._keep_running())
        return hello

    async def search(self, vector: FloatArray, k: int, timeout_s: float) -> tuple[IntArray, FloatArray]:
        """As `RetrievalClient.search`."""
        return await self._client.search(vector, k, timeout_s)

    async def put_side(self, rows: IntArray, vectors: FloatArray) -> None:
        """As `RetrievalClient.put_side`."""
        await self._client.put_side(rows, vectors)

    async def close(self) -> None:
        """End the process and wait for its end."""
        if self._watching is not None:
            self._watching.cancel()
            await asyncio.gather(self._watching, return_exceptions=True)
        await self._client.close()
        await self._end_child()
        self._socket.unlink(missing_ok=True)

    async def _spawn(self) -> None:
        words = (
            self._python, "-m", "region.retrieval", "--release", str(self._release), "--socket", str(self._socket),
            "--threads", str(self._threads), "--metrics-host", self._metrics_host, "--exit-with-stdin",
            *(("--give-way",) if self._gives_way else ()),
        )  # fmt: skip
        # Whoever starts it again waits for it.
        self._gives_way = False
        child = self._child = await start_child(words, directory=_ROOT)
        self._listening = asyncio.create_task(self._listen(child))
        line = b""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(self._start_timeout_s):
                line = await child.stdout.readline()
        word, _, address = line.strip().partition(b" ")
        if word != READY:
            await self._end_child()
            said = " ".join(self._said) or f"it was not ready after {self._start_timeout_s:.0f} s"
            raise RetrievalUnavailableError(f"the retrieval process did not start: {said}")
        self._metrics_address = address.decode()

    async def _listen(self, child: Child) -> None:
        """Keep the last of what the process says; a full pipe would stop it."""
        while chunk := await child.stderr.read(65_536):
            self._said.extend(line.strip() for line in chunk.decode(errors="replace").splitlines() if line.strip())

    async def _keep_running(self) -> None:
        failures = 0
        started_s = self._clock.monotonic_s()
        while self._child is not None:
            code = await self._child.wait()
            failures = 1 if self._clock.monotonic_s() - started_s >= STABLE_AFTER_S else failures + 1
            self._child.close()
            _log.warning("the retrieval process ended with %s; last words: %s", code, " ".join(self._said))
            await asyncio.sleep(restart_delay_s(failures))
            self.restarts += 1
            started_s = self._clock.monotonic_s()
            with contextlib.suppress(RetrievalUnavailableError):
                await self._spawn()

    async def _end_child(self) -> None:
        child = self._child
        if child is None:
            return
        child.close_stdin()
        for end in (child.terminate, child.kill):
            if child.returncode is None:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(STOP_TIMEOUT_S):
                        await child.wait()
            if child.returncode is None:
                with contextlib.suppress(ProcessLookupError):
                    end()
        await child.wait()
        if self._listening is not None:
            await asyncio.gather(self._listening, return_exceptions=True)
        child.close()
