"""HTTP towards the repository with a bound on everything: connection, silence, whole time, bytes.

python-tuf's own fetcher reads proxies from the environment and has no bound on the whole time of a download; a
repository that sends one byte every few seconds would hold a puller for ever.
"""

import contextlib
from collections.abc import Callable, Generator, Iterable, Iterator
from dataclasses import dataclass

import urllib3

from infra.plumbing.clock import Clock
from infra.plumbing.http.tls import ClientTls, client_context
from infra.plumbing.tuf_client.library import FetcherInterface, exceptions


@dataclass(frozen=True, slots=True)
class FetchLimits:
    """Bounds of every download.

    `bytes_per_s_min` is what a download must reach on average once `grace_s` has passed.
    """

    connect_s: float = 3.0
    silence_s: float = 10.0
    grace_s: float = 20.0
    bytes_per_s_min: int = 50_000
    retries: int = 2
    chunk_bytes: int = 256 * 1024
    blob_bytes_max: int = 8 * 1024**3

    def deadline_s(self, length: int) -> float:
        """Seconds that a download of `length` bytes may take."""
        return self.grace_s + length / self.bytes_per_s_min


class BoundedFetcher(FetcherInterface):
    """python-tuf's port for HTTP, and ranges for blobs. Follows no redirect, asks for no compression."""

    def __init__(self, *, limits: FetchLimits, clock: Clock, tls: ClientTls | None = None) -> None:
        self._limits = limits
        self._clock = clock
        self._tls = None if tls is None else client_context(tls, clock=clock)
        self._pool = urllib3.PoolManager(
            maxsize=4,
            timeout=urllib3.Timeout(connect=limits.connect_s, read=limits.silence_s),
            retries=urllib3.Retry(total=limits.retries, redirect=0, status=0, backoff_factor=0.05),
            headers={"Accept-Encoding": "identity", "User-Agent": "atoll-release-client"},
            ssl_context=None if self._tls is None else self._tls.context,
        )

    def _fetch(self, url: str) -> Iterator[bytes]:
        """Chunks of `url`; whoever reads them bounds their sum."""
        return self.stream(url, start=0, deadline_s=self._limits.grace_s)[1]

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Content of `url`, in memory. Closes the connection at once when more than `max_length` bytes come.

        Raises:
            exceptions.DownloadError: as `stream`; `DownloadLengthMismatchError` for too many bytes.
        """
        _, chunks = self.stream(url, start=0, deadline_s=self._limits.deadline_s(max_length))
        content = bytearray()
        with contextlib.closing(chunks):
            copy_bounded(chunks, content.extend, room=max_length)
        return bytes(content)

    def stream(self, url: str, *, start: int, deadline_s: float) -> tuple[int, Generator[bytes]]:
        """Begin a download at byte `start`; returns where it begins (0 if the server ignores ranges), and its chunks.

        Raises:
            tuf.api.exceptions.DownloadError: refused, silent, too slow (also while iterating).
        """
        if self._tls is not None:
            self._tls.refresh()
        with _as_download_errors(url):
            ranged = {"Range": f"bytes={start}-"} if start else {}
            headers = {**self._pool.headers, **ranged}
            response = self._pool.request("GET", url, headers=headers, preload_content=False, redirect=False)
        if start and response.status == 416:
            response.drain_conn()
            response.release_conn()
            return self.stream(url, start=0, deadline_s=deadline_s)
        if response.status not in (200, 206):
            response.close()
            raise exceptions.DownloadHTTPError(f"HTTP status {response.status} for {url}", response.status)
        begins = start if response.status == 206 and _resumes_at(response, start) else 0
        if response.status == 206 and begins != start:
            response.close()
            raise exceptions.DownloadError(f"{url} was answered with another range than asked for")
        return begins, self._chunks(url, response, self._clock.monotonic_s() + deadline_s)

    def _chunks(self, url: str, response: urllib3.BaseHTTPResponse, deadline: float) -> Generator[bytes]:
        complete = False
        try:
            with _as_download_errors(url):
                for chunk in response.stream(self._limits.chunk_bytes, decode_content=False):
                    if self._clock.monotonic_s() > deadline:
                        raise exceptions.SlowRetrievalError(f"{url} was still sending when its time was over")
                    yield chunk
            complete = True
        finally:
            # A connection with unread bytes in it must not go back to the pool.
            response.release_conn() if complete else response.close()

    def close(self) -> None:
        """Close all connections."""
        self._pool.clear()


def copy_bounded(chunks: Iterable[bytes], write: Callable[[bytes], object], *, room: int) -> int:
    """Give every chunk to `write`; returns how many bytes they were.

    Raises:
        exceptions.DownloadLengthMismatchError: more than `room` bytes came; the one chunk too many was not written.
    """
    copied = 0
    for chunk in chunks:
        copied += len(chunk)
        if copied > room:
            raise exceptions.DownloadLengthMismatchError(f"more than {room} bytes came")
        write(chunk)
    return copied


def _resumes_at(response: urllib3.BaseHTTPResponse, start: int) -> bool:
    return response.headers.get("Content-Range", "").startswith(f"bytes {start}-")


@contextlib.contextmanager
def _as_download_errors(url: str) -> Iterator[None]:
    try:
        yield
    except urllib3.exceptions.TimeoutError as error:
        raise exceptions.SlowRetrievalError(f"{url} was silent for too long") from error
    except urllib3.exceptions.HTTPError as error:
        raise exceptions.DownloadError(f"{url} could not be read") from error
