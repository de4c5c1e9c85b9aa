"""Phones by the dozen in one process: each has its own store, token and history; all share one tower in memory.

Each phone behaves as a real one would: it checks in at its own region's gateway, trains when it is given a task, and
sends the update under the ticket. Training runs in one thread, so that the event loop keeps answering.
"""

import asyncio
import contextlib
import hashlib
import secrets
from collections.abc import Awaitable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
import msgspec
import numpy as np

from federation.device.keystore import FileKeyStore
from federation.device.outbox import Outbox
from federation.device.rounds import DeviceRound
from federation.device.store import DeviceStore, LocalHistory
from federation.device.tower import DeviceRelease
from federation.device.training import LocalSettings, LocalTraining, TrainingError, steps_of, train_round
from federation.device.vector import personal_part
from federation.messages import CheckIn, CheckInAnswer, Float32Array, Float64Array, RoundPlan
from federation.phones.dataset import (
    Owner,
    is_sensitive,
    read_categories,
    read_owners,
    sensitive_categories,
    sensitive_event,
    served_event,
)
from federation.phones.delivery import Delivery
from federation.phones.gains import GainTable, Quality, changes, rank_of, step_of
from federation.phones.link import GatewayLink, RefusedError, UnsentError, Visit
from federation.rounds.outcome import load_adapter
from federation.secure_aggregation.client import ProtocolError, Trust
from federation.secure_aggregation.identity import Certificates, DeviceIdentity, enrol
from federation.settings import PhonesSettings
from infra.contracts.events import SensitiveEvent
from infra.contracts.release import FEDERATED_ADAPTER
from infra.plumbing.clock import Clock
from infra.plumbing.http.tls import client_context
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.tokens import issue_token

REQUEST_TIMEOUT_S = 60.0
"""Longer than any phase of a round: answers are held back until the other phones have done their step."""
AWAY_COME_BACK_S = 2.0
"""When a phone asks again whose gateway did not answer, or would not have it."""
CANARY_STRENGTH = 5
STAYS = 3
_TOKEN_LIFE_S = 3600


class PhonesReport(msgspec.Struct, frozen=True, kw_only=True):
    """What happened, over all phones; nothing in it is about one of them."""

    phones: int
    regions: dict[str, int]
    sensitive_categories: tuple[str, ...]
    sensitive_share: float
    """Share of the phones' events that never left them."""
    tasks: int
    """Tasks taken, over all rounds."""
    participants: int
    """Phones with at least one accepted update."""
    updates_accepted: int
    updates_refused: int
    dropouts: int
    """Tasks taken and never reported, on purpose."""
    clipped_share: float
    loss_before: float
    loss_after: float
    train_ms: float
    """Mean time of one phone's local training."""
    bytes_per_task: float
    """Bodies up and down, check-ins included, over all tasks."""
    quality: dict[str, Quality]
    quality_on_sensitive: dict[str, Quality]
    personal_gain_ndcg10: float
    """NDCG@10 of the vector computed on the phone with adapter and personal part, less that of the region's view."""
    adapted: bool
    """Whether the federated adapter was there to be measured."""


@dataclass(slots=True)
class _Phone:
    owner: Owner
    store: DeviceStore
    token: str
    identity: DeviceIdentity
    target_hidden: bool
    rng: np.random.Generator
    outbox: Outbox
    accepted: int = 0


@dataclass(slots=True)
class _Tally:
    tasks: int = 0
    refused: int = 0
    dropouts: int = 0
    train_s: list[float] = field(default_factory=list)
    trainings: list[LocalTraining] = field(default_factory=list)


class Simulator:
    """All phones of one process."""

    def __init__(
        self, settings: PhonesSettings, *, release: DeviceRelease, clock: Clock, local: LocalSettings | None = None
    ) -> None:
        self._settings = settings
        self._release = release
        self._clock = clock
        self._local = local or LocalSettings()
        self._rng = np.random.default_rng(settings.seed)
        self._tally = _Tally()
        self._worker = ThreadPoolExecutor(max_workers=1, thread_name_prefix="phone-training")
        dataset = Path(settings.dataset_directory)
        owners = read_owners(
            dataset, regions=sorted(settings.gateways), per_region=settings.phones_per_region, rng=self._rng
        )
        categories = read_categories(dataset)
        self._hidden = sensitive_categories(settings.sensitive_categories, owners, categories)
        keys = {region: RegionKeys.load(Path(path)) for region, path in settings.keys_files.items()}
        self._events = self._sensitive_events = 0
        self._trusts = {
            region: Trust(region, found.issuer_public, cohort_min=settings.cohort_min)
            for region, found in TrustDirectory.of(list(keys.values())).regions.items()
        }
        # Phones of one process need not check the same certificate each: a real one has a processor of its own.
        self._certificates = {
            region: Certificates(region=region, issuer_public=trust.issuer_public)
            for region, trust in self._trusts.items()
        }
        self._links: dict[str, GatewayLink] = {}
        self._phones = [self._phone(owner, keys[owner.region], categories) for owner in owners]

    async def run(self, stop: asyncio.Event) -> None:
        """Take part in rounds until `stop` is set or patience ends."""
        # Every phone waits in a call of its own while a round goes on.
        tls = self._settings.gateways_tls
        context = True if tls is None else client_context(tls, clock=self._clock).context
        connector = aiohttp.TCPConnector(limit=0, ssl=context)
        timeout = aiohttp.ClientTimeout(total=REQUEST_TIMEOUT_S)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            self._links = {
                region: GatewayLink(session, url, self._worker) for region, url in self._settings.gateways.items()
            }
            tasks = [asyncio.create_task(self._live(phone, self._links[phone.owner.region])) for phone in self._phones]
            try:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(self._settings.patience_s):
                        await _first_of(stop.wait(), tasks)
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)

    def counts(self) -> dict[str, int]:
        """What happened until now, by name; nothing in it is about one phone."""
        return {
            "tasks": self._tally.tasks,
            "accepted": sum(phone.accepted for phone in self._phones),
            "refused": self._tally.refused,
            "dropouts": self._tally.dropouts,
        }

    @property
    def size(self) -> int:
        """How many phones there are."""
        return len(self._phones)

    def report(self) -> PhonesReport:
        """What happened, with the gain measured now; trains every phone's personal part, so it takes a while."""
        table, adapted = self._gains()
        trainings = [one for one in self._tally.trainings if one.examples >= self._local.examples_min]
        quality = table.quality()
        return PhonesReport(
            phones=len(self._phones),
            regions=dict.fromkeys(sorted(self._settings.gateways), self._settings.phones_per_region),
            sensitive_categories=tuple(sorted(self._hidden)),
            sensitive_share=self._sensitive_events / max(1, self._events),
            tasks=self._tally.tasks, participants=sum(phone.accepted > 0 for phone in self._phones),
            updates_accepted=sum(phone.accepted for phone in self._phones), updates_refused=self._tally.refused,
            dropouts=self._tally.dropouts, clipped_share=_mean([float(one.clipped) for one in trainings]),
            loss_before=_mean([one.loss_before for one in trainings]),
            loss_after=_mean([one.loss_after for one in trainings]),
            train_ms=1000.0 * _mean(self._tally.train_s), quality=quality,
            bytes_per_task=sum(link.bytes_up + link.bytes_down for link in self._links.values())
            / max(1, self._tally.tasks),
            quality_on_sensitive=table.quality_on_sensitive(), adapted=adapted,
            personal_gain_ndcg10=changes(quality, "adapted_personal", "served"),
        )  # fmt: skip

    def close(self) -> None:
        """End the training thread."""
        self._worker.shutdown(wait=True, cancel_futures=True)

    def _phone(self, owner: Owner, keys: RegionKeys, categories: dict[str, tuple[str, ...]]) -> _Phone:
        # The file's name must not tell whose phone it is: a scan of names would find user ids.
        name = hashlib.sha256(f"{owner.region}\0{owner.user}".encode()).hexdigest()[:16]
        store = _fresh_store(Path(self._settings.state_directory), name)
        for index, row in enumerate(owner.known):
            self._events += 1
            if is_sensitive(row, self._hidden, categories):
                self._sensitive_events += 1
                store.add_sensitive(sensitive_event(row))
            else:
                store.add_served(served_event(row, index))
        if self._settings.canary:
            last_ms = owner.known[-1].at_ms
            store.add_sensitive(SensitiveEvent(item=self._settings.canary, strength=CANARY_STRENGTH, at_ms=last_ms))
        store.expire(now_ms=owner.known[-1].at_ms)
        store.save()
        token = issue_token(keys, owner.user, clock=self._clock, life_s=_TOKEN_LIFE_S)
        hidden = is_sensitive(owner.held_out, self._hidden, categories)
        identity = enrol(
            region=owner.region, issuer_private=keys.issuer_private, device_private=secrets.token_bytes(32),
            expires_ms=self._clock.now_ms() + 1000 * _TOKEN_LIFE_S,
        )  # fmt: skip
        rng = np.random.default_rng(self._rng.integers(2**63))
        return _Phone(owner, store, token, identity, hidden, rng, store.outbox())

    async def _live(self, phone: _Phone, link: GatewayLink) -> None:
        while True:
            try:
                await self._deliver(phone, link)
                come_back_s = await self._visit(phone, link)
            except RefusedError:
                come_back_s = AWAY_COME_BACK_S
            # Phones that ask in step would arrive in step.
            await asyncio.sleep(come_back_s * float(phone.rng.uniform(0.7, 1.3)))

    async def _deliver(self, phone: _Phone, link: GatewayLink) -> None:
        """Send what waited while the gateway was away."""
        if len(phone.outbox):
            done = await Delivery(link.session, gateway=link.url).run(phone.outbox, clock=self._clock)
            phone.accepted += done.taken
            self._tally.refused += done.refused

    async def _visit(self, phone: _Phone, link: GatewayLink) -> float:
        """Ask for a task and carry it out; returns when to come back (in seconds).

        Raises:
            RefusedError: no gateway, or a refusal.
        """
        async with link.visit(phone.token) as visit:
            if visit.greeting.reason != "advert":
                return visit.greeting.come_back_s
            device = DeviceRound(
                visit.greeting.session, identity=phone.identity, trust=self._trusts[phone.owner.region],
                now_ms=self._clock.now_ms(), entropy=secrets.token_bytes,
                certificates=self._certificates[phone.owner.region],
            )  # fmt: skip
            answer = await visit.check_in(
                CheckIn(releases=(self._release.release_id,), session=device.session, advert=device.advert)
            )
            if answer.plan is not None:
                await self._work(phone, visit, device, answer)
            return answer.come_back_s

    async def _work(self, phone: _Phone, visit: Visit, device: DeviceRound, answer: CheckInAnswer) -> None:
        self._tally.tasks += 1
        drops = phone.rng.random() < self._settings.dropout_share
        leave_at = int(phone.rng.integers(3)) if drops else STAYS
        until_ms = self._clock.now_ms() + round(1000 * answer.report_within_s)
        try:
            part = await visit.take_part(
                device, answer, lambda plan: self._train(phone, plan), leave_at=leave_at
            )  # fmt: skip
        except TrainingError:
            self._tally.dropouts += 1
            return
        except UnsentError as unsent:
            # Not lost yet: in the sum if the gateway is back before the round ends, dropped if it is not.
            phone.outbox.add_reply(
                unsent.update, ticket=unsent.ticket, until_ms=until_ms, now_ms=self._clock.now_ms()
            )  # fmt: skip
            return
        except (RefusedError, ProtocolError):
            self._tally.refused += 1
            return
        self._tally.dropouts += drops
        self._tally.refused += not (drops or part.reported)
        phone.accepted += part.reported

    def _train(self, phone: _Phone, plan: RoundPlan) -> LocalTraining:
        started_s = self._clock.monotonic_s()
        history = phone.store.history(self._release)
        steps = steps_of(plan, history, self._local)
        if not phone.store.spend_steps(steps, now_ms=self._clock.now_ms(), a_day=self._settings.steps_a_day):
            raise TrainingError("this phone has trained enough for today.", fix="Ask again tomorrow.")
        training = train_round(plan, self._release, history, rng=phone.rng, settings=self._local)
        self._tally.train_s.append(self._clock.monotonic_s() - started_s)
        self._tally.trainings.append(training)
        return training

    def _gains(self) -> tuple[GainTable, bool]:
        step = np.eye(self._release.tower.dim)
        path = Path(self._settings.adapter_file)
        adapted = bool(self._settings.adapter_file) and path.exists()
        if adapted:
            released = load_adapter(Path(self._settings.release_directory) / FEDERATED_ADAPTER)
            step = step_of(load_adapter(path), released)
        table = GainTable()
        for phone in self._phones:
            self._measure(phone, step, table)
        return table, adapted

    def _measure(self, phone: _Phone, step: Float64Array, table: GainTable) -> None:
        target = self._release.rows.get(phone.owner.held_out.item)
        history = phone.store.history(self._release)
        if target is None or not len(history) or target in history.rows:
            return
        served = history.served_only()
        now_s = phone.owner.held_out.at_ms / 1000.0

        def base(of: LocalHistory) -> Float32Array:
            return self._release.base_vector(of.rows, of.strengths, of.times_s, now_s=now_s)

        whole = base(history.read_as(self._release.reads(history.rows, sensitive=history.sensitive)))
        personal = personal_part(self._release, history, rng=phone.rng, settings=self._local)
        vectors: dict[str, Float32Array | Float64Array] = {
            "served": base(served), "on_phone": whole, "personal": whole + personal, "adapted": whole @ step,
            "adapted_personal": whole @ step + personal,
        }  # fmt: skip
        for arm, vector in vectors.items():
            rank = rank_of(target, vector, self._release, history)
            table.add(arm, rank, sensitive=phone.target_hidden)


def _fresh_store(directory: Path, name: str) -> DeviceStore:
    """An empty store with a key of its own; what an earlier run left, damaged or not, goes."""
    keys = FileKeyStore(directory / f"{name}.key", entropy=secrets.token_bytes)
    path = directory / f"{name}.phone"
    DeviceStore.salvaged(path, keys=keys).erase()
    return DeviceStore(path, keys=keys)


async def _first_of(waited: Awaitable[object], tasks: Sequence[asyncio.Task[None]]) -> None:
    """Until `waited` is done; a phone that fails for a reason of its own ends the wait with its error."""
    stopping = asyncio.ensure_future(waited)
    try:
        done, _ = await asyncio.wait([stopping, *tasks], return_when=asyncio.FIRST_COMPLETED)
        for task in done:
            task.result()
    finally:
        stopping.cancel()


def _mean(values: Sequence[float]) -> float:
    return float(np.mean(values)) if values else 0.0
