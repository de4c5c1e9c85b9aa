"""The rooms that a node keeps things in: its data and whom it tells of them, and its releases."""

import itertools
import weakref
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from infra.contracts.messages import Invalidation
from infra.contracts.release import Manifest
from infra.plumbing.clock import Clock
from infra.plumbing.errors import UnavailableError
from infra.plumbing.grid.connect import connect_grid
from infra.plumbing.grid.port import Grid
from infra.plumbing.ids import uniform
from infra.plumbing.telemetry import Telemetry
from infra.plumbing.tuf_client.client import ReleaseClient
from region.additions.keeper import Additions
from region.additions.opening import open_new_items
from region.additions.publisher import ItemPublisher
from region.api.announcing import Announcer
from region.api.targets import METRICS_HOST
from region.events.opening import open_log, open_seals
from region.events.port import Log
from region.events.waking import Waker
from region.funnel.opening import COMPUTE_THREADS
from region.funnel.release import LoadedRelease, open_release
from region.keeping.sealing import Seals
from region.publishing.proving import DelegatedProof
from region.releases.activation import Activator
from region.releases.audit import AuditLog
from region.releases.store import ReleaseDirectory, ReleaseStore
from region.releases.trials import Trials
from region.retrieval.process import RetrievalProcess
from region.rules.book import RULES_FILE, RuleBook, load_rules
from region.rules.regional import Withdrawals
from region.settings import RegionSettings
from region.store.opening import open_store
from region.store.port import Store


@dataclass(frozen=True, slots=True, kw_only=True)
class Data:
    """What the node keeps and whom it tells."""

    grid: Grid
    store: Store
    log: Log
    seals: Seals
    waker: Waker
    announcer: Announcer
    withdrawals: Withdrawals
    book: RuleBook
    additions: Additions
    publisher: ItemPublisher


@dataclass(frozen=True, slots=True, kw_only=True)
class Releases:
    """The releases of the node, on disk and in memory."""

    store: ReleaseStore
    audit: AuditLog
    activator: Activator[LoadedRelease]
    trials: Trials[LoadedRelease]
    retrievals: "weakref.WeakSet[RetrievalProcess]"
    """The retrieval processes of the releases in memory."""


async def open_data(
    settings: RegionSettings, stack: AsyncExitStack, telemetry: Telemetry, clock: Clock, client: ReleaseClient
) -> Data:  # fmt: skip
    """Store, log, grid, rules and items; `stack` closes them.

    Raises:
        SettingsError: a setting, a key file, the rules or the withdrawn items cannot be used.
    """
    registry, state = telemetry.registry, Path(settings.state_directory)
    withdrawals = Withdrawals(state)
    proof = DelegatedProof(client, RULES_FILE, region=settings.region, clock=clock)
    book = RuleBook(state / "rules", region=settings.region, first=load_rules(settings.rules_file), proof=proof)
    grid = connect_grid(settings.grid, clock=clock, registry=registry)
    stack.push_async_callback(grid.close)
    store = open_store(settings, clock=clock, registry=registry)
    stack.push_async_callback(store.close)
    seals = open_seals(settings, clock=clock, registry=registry)
    log = open_log(settings, registry=registry, seals=seals)
    stack.push_async_callback(log.close)
    waker = Waker(grid=grid, registry=registry)
    stack.push_async_callback(waker.close)
    announcer = Announcer(grid=grid, registry=registry)
    additions, publisher = await open_new_items(
        settings, client, withdrawals=withdrawals, grid=grid, announcer=announcer, clock=clock
    )  # fmt: skip
    return Data(
        grid=grid, store=store, log=log, seals=seals, waker=waker, announcer=announcer, withdrawals=withdrawals,
        book=book, additions=additions, publisher=publisher,
    )  # fmt: skip


def open_releases(
    settings: RegionSettings, stack: AsyncExitStack, data: Data, clock: Clock, client: ReleaseClient
) -> Releases:  # fmt: skip
    """Releases on disk and in memory, each with its retrieval process."""
    state = Path(settings.state_directory)
    store, audit = ReleaseStore(state, source=client, clock=clock), AuditLog(state / "audit.jsonl")
    numbers = itertools.count()
    retrievals: weakref.WeakSet[RetrievalProcess] = weakref.WeakSet()

    async def start_retrieval(directory: Path, _manifest: Manifest) -> RetrievalProcess:
        # A path of its own for each process, and a short one: the kernel takes 107 bytes.
        socket = Path(settings.run_directory or state) / f"ann-{settings.port}-{next(numbers)}.sock"
        process = RetrievalProcess(
            release=directory, socket=socket, clock=clock, metrics_host=METRICS_HOST, gives_way=bool(len(retrievals))
        )
        retrievals.add(process)
        await process.start()
        return process

    async def load(directory: ReleaseDirectory) -> LoadedRelease:
        release = await open_release(
            directory.path, directory.manifest, region=settings.region, tower_sets=COMPUTE_THREADS,
            start_retrieval=start_retrieval,
        )  # fmt: skip
        try:
            await data.additions.attach(release)
        except BaseException:
            await release.close()
            raise
        return release

    async def on_switch(release: str) -> None:
        if not await data.announcer.tell(Invalidation(release=release)):
            raise UnavailableError("the grid does not answer.")

    activator = Activator(store=store, load=load, audit=audit, clock=clock, on_switch=on_switch)
    stack.push_async_callback(activator.close)
    trials = Trials(
        activator=activator, marker=state / "trial", clock=clock, uniform=lambda: uniform(0.0, 1.0), ended=on_switch
    )
    return Releases(store=store, audit=audit, activator=activator, trials=trials, retrievals=retrievals)
