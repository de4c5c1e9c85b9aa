"""Asking the home region what this edge may have missed: when it starts, while the grid is silent, and now and then.

Withdrawn items are kept on the edge's disk as well: an edge that starts while its region is dark still shows none.
"""

import asyncio
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edge.cache.invalidation import Ledger
from edge.cache.pulse import PULSE_S, Pulse
from edge.jitter import Uniform
from edge.routing.port import RegionCallError, RegionPort
from infra.contracts.kept_out import ItemsKeptOut
from infra.contracts.messages import INVALIDATION_TOPIC, Invalidation, Notices, NoticesCall
from infra.contracts.residency import encode_regional
from infra.plumbing.clock import Clock
from infra.plumbing.files import write_atomically
from infra.plumbing.grid.port import Grid, GridUnavailableError

ASK_TIMEOUT_S = 0.5
ANXIOUS_S = 0.5
"""Time between two askings while the grid is silent or nobody has answered yet."""
JITTER = 0.2
FILE = "withdrawn.json"
KEPT_OUT_FILE = "kept-out.json"
_KEPT_OUT = tuple[ItemsKeptOut, ...]


class NoticeKeeper:
    """Keeps a ledger true where the grid's messages cannot.

    Args:
        urls: the nodes of the home region; each is asked, for an operator's word may have reached one only.
        directory: where the withdrawn items are kept.
        calm_s: time between two askings while all is well.
        counted: told `answered` or `failed` of every asking, and `unkept` when the file cannot be used.
        on_release: told the release that the region answers from.
    """

    def __init__(
        self, *, region: RegionPort, urls: Sequence[str], ledger: Ledger, clock: Clock, uniform: Uniform,
        directory: Path, calm_s: float, counted: Callable[[str], None], on_release: Callable[[str], None],
    ) -> None:  # fmt: skip
        self._region = region
        self._urls = tuple(urls)
        self._ledger = ledger
        self._clock = clock
        self._uniform = uniform
        self._file = directory / FILE
        self._calm_s = calm_s
        self._counted = counted
        self._on_release = on_release
        self._withdrawn: dict[str, frozenset[str]] = {}
        """By node, of the nodes that answered last time."""
        self._digests: dict[str, str] = {}
        self._kept_out: dict[str, tuple[str, _KEPT_OUT]] = {}
        """By node: the digest of what its rules keep out, and that."""
        self._kept_out_file = directory / KEPT_OUT_FILE
        self._kept_out_written: frozenset[ItemsKeptOut] | None = None
        self._seen: dict[str, tuple[str, int]] = {}
        """By node: its boot, and the number of the newest purge taken from it."""
        self._written: frozenset[str] | None = None
        """What lies on the disk, as far as this process wrote or read it."""
        self._wake = asyncio.Event()

    async def start(self) -> None:
        """Take what was withdrawn when this edge last ran, then ask once; returns within ASK_TIMEOUT_S or so."""
        try:
            kept = msgspec.json.decode(await asyncio.to_thread(self._file.read_bytes), type=tuple[str, ...])
        except FileNotFoundError:
            kept = ()
        except (OSError, msgspec.DecodeError):
            self._counted("unkept")
            kept = ()
        self._written = frozenset(kept)
        self._ledger.replace_withdrawn(kept)
        await self._read_kept_out()
        await self.ask()

    def hurry(self) -> None:
        """Ask as soon as possible: something may have been missed."""
        self._wake.set()

    async def run(self) -> None:
        """Ask until cancelled."""
        while True:
            anxious = self._ledger.silent or not self._withdrawn
            wait_s = ANXIOUS_S if anxious else self._calm_s * self._uniform(1.0 - JITTER, 1.0 + JITTER)
            try:
                async with asyncio.timeout(wait_s):
                    await self._wake.wait()
            except TimeoutError:
                pass
            self._wake.clear()
            await self.ask()

    async def ask(self) -> bool:
        """Ask every node of the region once; whether one answered."""
        answers = await asyncio.gather(*(self._ask_node(url) for url in self._urls))
        answered = {url: notices for url, notices in zip(self._urls, answers, strict=True) if notices is not None}
        self._counted("answered" if answered else "failed")
        if not answered:
            await self._write_down()
            return False
        for url, notices in answered.items():
            self._take_purges(url, notices)
            if notices.withdrawn is not None:
                self._withdrawn[url], self._digests[url] = frozenset(notices.withdrawn), notices.withdrawn_digest
            if notices.kept_out is not None:
                self._kept_out[url] = (notices.kept_out_digest, notices.kept_out)
        # Of a node that did not answer nothing is held on to: what it had withdrawn may have been restored.
        self._withdrawn = {url: items for url, items in self._withdrawn.items() if url in answered}
        self._digests = {url: digest for url, digest in self._digests.items() if url in answered}
        self._ledger.replace_withdrawn(frozenset().union(*self._withdrawn.values()))
        self._kept_out = {url: kept for url, kept in self._kept_out.items() if url in answered}
        if self._kept_out:
            await self._keep_out(frozenset(group for _, groups in self._kept_out.values() for group in groups))
        await self._write_down()
        return True

    async def _ask_node(self, url: str) -> Notices | None:
        known, _ = self._kept_out.get(url, ("", ()))
        call = NoticesCall(withdrawn_digest=self._digests.get(url, ""), kept_out_digest=known)
        try:
            return await self._region.notices(url, call, timeout_s=ASK_TIMEOUT_S)
        except RegionCallError:
            return None

    def _take_purges(self, url: str, notices: Notices) -> None:
        boot, number = self._seen.get(url, (notices.boot, 0))
        if boot != notices.boot:
            number = 0
        now_s = self._clock.monotonic_s()
        for purge in notices.purges:
            if purge.number > number:
                self._ledger.purge(purge.purged, at_s=now_s - max(0.0, purge.age_ms) / 1000)
                number = purge.number
        self._seen[url] = (notices.boot, number)
        if notices.release is not None and self._ledger.silent and self._ledger.switch(notices.release):
            self._on_release(notices.release)

    async def _read_kept_out(self) -> None:
        """Take what rules kept out when this edge last ran."""
        try:
            kept = msgspec.json.decode(await asyncio.to_thread(self._kept_out_file.read_bytes), type=_KEPT_OUT)
        except FileNotFoundError:
            return
        except (OSError, msgspec.DecodeError):
            self._counted("unkept")
            return
        self._kept_out_written = frozenset(kept)
        self._ledger.keep_out(kept)

    async def _keep_out(self, groups: frozenset[ItemsKeptOut]) -> None:
        """Take what rules keep out now, and keep it for the next start."""
        self._ledger.keep_out(groups)
        if groups == self._kept_out_written:
            return
        content = msgspec.json.encode(sorted(groups, key=lambda one: (one.surfaces, one.items)))
        try:
            await asyncio.to_thread(write_atomically, self._kept_out_file, content)
        except OSError:
            self._counted("unkept")
        else:
            self._kept_out_written = groups

    async def _write_down(self) -> None:
        """Keep what is withdrawn now for the next start."""
        withdrawn = frozenset(self._ledger.withdrawn)
        if withdrawn == self._written:
            return
        try:
            await asyncio.to_thread(write_atomically, self._file, msgspec.json.encode(sorted(withdrawn)))
        except OSError:
            self._counted("unkept")  # It holds in memory all the same.
        else:
            self._written = withdrawn


async def keep_pulse(
    grid: Grid, ledger: Ledger, pulse: Pulse, *, node: str, clock: Clock, silent: Callable[[], None]
) -> None:
    """Send pulses and judge the grid by them until cancelled; `silent` is called when it falls silent."""
    message = encode_regional(Invalidation(pulse=node))
    due_s = clock.monotonic_s()
    while True:
        late_s = clock.monotonic_s() - due_s
        was_silent = ledger.silent
        ledger.silent = pulse.judge(now_s=clock.monotonic_s(), late_s=late_s)
        if ledger.silent and not was_silent:
            silent()
        sent_s = clock.monotonic_s()
        try:
            await grid.publish(INVALIDATION_TOPIC, message)
        except GridUnavailableError:
            pulse.refused()
        else:
            pulse.sent(now_s=sent_s)
        due_s = clock.monotonic_s() + PULSE_S
        await asyncio.sleep(PULSE_S)
