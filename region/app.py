"""One region node: every room composed once, served until it is told to stop."""

import asyncio
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from aiohttp import web

from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.http.middleware import frame, operations_routes
from infra.plumbing.http.serving import serve
from infra.plumbing.keys import LiveTrust, RegionKeys
from infra.plumbing.telemetry import Telemetry, start_telemetry
from region.additions.doors import AdditionDoors
from region.api.announcing import CATCH_UP_S
from region.api.choices import Choices
from region.api.discovery import DiscoveryDoors
from region.api.doors import Door, either_door, live_operator_door, service_door
from region.api.learning import LearnedEvents
from region.api.messages import StatusAnswer
from region.api.notices import NoticeBoard, NoticeDoors, hear_purges
from region.api.operating import OperatorDoors
from region.api.relay import RelayDesk
from region.api.resident_doors import ResidentDoors
from region.api.routes import CallerDoors
from region.api.rule_doors import RuleDoors, hear_rules
from region.api.suggesting import Suggester
from region.api.targets import RetrievalPages
from region.api.trying import CountedEvents, TrialDesk
from region.api.withdrawing import hear_withdrawals
from region.background import Background
from region.events.intake import Intake
from region.events.schema_check import check_event_schema
from region.funnel.keeping_out import REFRESH_S as KEPT_OUT_REFRESH_S
from region.funnel.keeping_out import KeptOutItems
from region.funnel.labels import labels_of, title_of
from region.funnel.opening import Answers, open_answers
from region.funnel.release import LoadedRelease
from region.logs import rooms_logging_to
from region.privacy.bulk import open_bulk_reads
from region.privacy.late import LateEvents
from region.privacy.opening import Privacy, open_accesses, open_privacy
from region.privacy.places import Known
from region.releases.activation import Activator
from region.releases.following import Follower
from region.releases.opening import open_client
from region.releases.operator_api import operator_routes
from region.releases.trials import LOOK_S
from region.rooms import Data, Releases, open_data, open_releases
from region.settings import RegionSettings
from region.store.opening import apply_rules
from region.suggest.keeping import SuggestKeeper

HEAR_RETRY_S = 1.0
ADDITIONS_TIDY_S = 2.0
SUGGEST_REFRESH_S = 1.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """One composed node."""

    app: web.Application
    data: Data
    releases: Releases
    answers: Answers
    board: NoticeBoard
    kept_out: KeptOutItems
    privacy: Privacy
    suggestions: SuggestKeeper


async def run(settings: RegionSettings, stop: asyncio.Event, *, clock: Clock | None = None) -> None:
    """Serve the node until `stop` is set.

    Raises:
        SettingsError: a setting, a key file, the rules or the port cannot be used.
    """
    async with AsyncExitStack() as stack:
        telemetry = start_telemetry(
            service="region", region=settings.region, node=settings.node, settings=settings.telemetry
        )
        stack.callback(telemetry.close)
        stack.enter_context(rooms_logging_to(telemetry.logger))
        clock = clock or SystemClock()
        node = await open_node(settings, stack, telemetry, clock)
        background = Background(logger=telemetry.logger, registry=telemetry.registry)
        async with background.running(
            {
                **node.answers.work(background, clock),
                **node.privacy.work(background, node.data.grid),
                "kept-out": background.repeat("kept-out", node.kept_out.refresh, every_s=KEPT_OUT_REFRESH_S),
                "suggestions": background.repeat("suggestions", node.suggestions.refresh, every_s=SUGGEST_REFRESH_S),
                "log": background.repeat("log", node.data.log.connect, every_s=HEAR_RETRY_S),
                "withdrawals": background.repeat(
                    "withdrawals", lambda: hear_withdrawals(node.data.grid, node.data.withdrawals), every_s=HEAR_RETRY_S
                ),
                "purges": background.repeat(
                    "purges", lambda: hear_purges(node.data.grid, node.board), every_s=HEAR_RETRY_S
                ),
                "rules": background.repeat(
                    "rules",
                    lambda: hear_rules(node.data.grid, node.data.announcer, node.data.book),
                    every_s=HEAR_RETRY_S,
                ),
                "announcements": background.repeat("announcements", node.data.announcer.catch_up, every_s=CATCH_UP_S),
                "additions": background.repeat("additions", node.data.additions.hear, every_s=HEAR_RETRY_S),
                "published": background.repeat("published", node.data.publisher.hear, every_s=HEAR_RETRY_S),
                "added": background.repeat("added", node.data.additions.tidy, every_s=ADDITIONS_TIDY_S),
                "trials": background.repeat("trials", node.releases.trials.look, every_s=LOOK_S),
                "releases": keep_release(settings, node.releases, stop, background, clock),
            }
        ):
            await serve(
                node.app, host=settings.host, port=settings.port, stop=stop, telemetry=telemetry, tls=settings.tls
            )


async def open_node(settings: RegionSettings, stack: AsyncExitStack, telemetry: Telemetry, clock: Clock) -> Node:
    """Build every room; `stack` closes them in reverse order.

    Raises:
        SettingsError: a setting, a key file or the rules cannot be used.
    """
    check_event_schema()
    keys = RegionKeys.load(Path(settings.keys_file))
    home_only, operators_only = service_door(keys.service_key), live_operator_door(Path(settings.keys_file), clock)
    if keys.region != settings.region:
        raise SettingsError(f"the key file is of region {keys.region}, the settings of {settings.region}.")
    client = open_client(settings, stack, clock)
    data = await open_data(settings, stack, telemetry, clock, client)
    releases = open_releases(settings, stack, data, clock, client)
    answers = _open_answers(settings, stack, data, releases, telemetry, clock)
    releases.activator.make_ready = answers.pager.prepare
    lists = TrialDesk(recommender=answers.recommender, trials=releases.trials, clock=clock, registry=telemetry.registry)
    stack.push_async_callback(lists.close)
    callers = _caller_doors(settings, data, releases, answers, lists, keys=keys, telemetry=telemetry, clock=clock)
    operators = OperatorDoors(
        withdrawals=data.withdrawals, announcer=data.announcer, operators_only=operators_only,
        operations=releases.activator.operations, body_bytes_max=settings.body_bytes_max,
        status=lambda: status_of(settings, data, releases, answers),
    )  # fmt: skip
    accesses = open_accesses(settings, keys, clock)
    rules = RuleDoors(
        accesses=accesses, region=settings.region, book=data.book, recommender=answers.recommender,
        requests=answers.requests, activator=releases.activator, announcer=data.announcer, grid=data.grid, clock=clock,
        operators_only=operators_only,
    )  # fmt: skip
    app = web.Application(middlewares=[frame(telemetry, clock)], client_max_size=settings.body_bytes_max)
    kept_out, board, notices = _telling(settings, data, releases, answers, home_only, operators_only, clock)
    known = Known(
        store=data.store, log=data.log, samples=answers.samples, exposures=answers.exposures,
        requests=answers.requests, pages=answers.rulings.pages, trials=releases.trials, tastes=answers.tastes,
        precomputer=answers.precomputer, seals=data.seals,
        lists=answers.recommender, title_of=lambda item: title_of(releases.activator.current, item),
    )  # fmt: skip
    privacy = open_privacy(
        settings, stack, keys=keys, known=known, announcer=data.announcer, accesses=accesses, clock=clock,
        registry=telemetry.registry,
    )  # fmt: skip
    added = AdditionDoors(
        additions=data.additions, activator=releases.activator, body_bytes_max=settings.body_bytes_max,
        admit=either_door(home_only, operators_only), publisher=data.publisher, operators_only=operators_only,
    )  # fmt: skip
    resident = ResidentDoors(data.store, home_only, open_bulk_reads(settings, clock))
    stack.push_async_callback(resident.close)
    discovery, suggestions = _discovery(settings, data, answers, releases, telemetry, clock, home_only)
    for room in (callers, operators, notices, rules, added, privacy.doors, resident, discovery):
        app.add_routes(room.routes())
    operating = operator_routes(
        store=releases.store, activator=releases.activator, trials=releases.trials, audit=releases.audit,
        authorize=operators_only,
    )  # fmt: skip
    app.add_routes(operating)
    app.add_routes(operations_routes(telemetry, lambda: waits_for(releases.activator)))
    app.add_routes(RetrievalPages(settings.region, releases.retrievals).routes())
    return Node(
        app=app,
        data=data,
        releases=releases,
        answers=answers,
        board=board,
        kept_out=kept_out,
        privacy=privacy,
        suggestions=suggestions,
    )


def _telling(
    settings: RegionSettings, data: Data, releases: Releases, answers: Answers, home_only: Door, operators_only: Door,
    clock: Clock,
) -> tuple[KeptOutItems, NoticeBoard, NoticeDoors]:  # fmt: skip
    """What edges ask for, lest they miss a word: purges, withdrawals, what rules keep out."""
    kept_out = KeptOutItems(
        rulings=answers.rulings, lease=releases.activator.lease, tell=data.announcer.tell, clock=clock
    )
    board = NoticeBoard(
        clock=clock, withdrawals=data.withdrawals, release=lambda: releases.activator.active_release,
        kept_out=lambda: kept_out.groups,
    )  # fmt: skip
    notices = NoticeDoors(
        board=board, announcer=data.announcer, home_only=home_only, operators_only=operators_only,
        operations=releases.activator.operations, body_bytes_max=settings.body_bytes_max,
    )  # fmt: skip
    return kept_out, board, notices


def _caller_doors(
    settings: RegionSettings, data: Data, releases: Releases, answers: Answers, lists: "TrialDesk", *,
    keys: RegionKeys, telemetry: Telemetry, clock: Clock,
) -> CallerDoors:  # fmt: skip
    """What people's calls come through: lists, events, choices, and the same from elsewhere in sealed boxes."""
    trust = LiveTrust(Path(settings.trust_file), clock=clock)
    taking = Intake(
        log=data.log, clock=clock, wake=data.waker.wake, registry=telemetry.registry,
        labels=lambda item: labels_of(releases.activator.current, item),
    )  # fmt: skip
    timely = LateEvents(intake=taking, store=data.store, clock=clock)
    intake = CountedEvents(intake=_learning(settings, timely, answers, releases), trials=releases.trials)
    choices = Choices(store=data.store, announcer=data.announcer)
    return CallerDoors(
        recommender=lists, intake=intake, choices=choices,
        relay=RelayDesk(keys=keys, trust=trust, clock=clock, recommender=lists, intake=intake, choices=choices),
        home_only=service_door(keys.service_key), body_bytes_max=settings.body_bytes_max,
    )  # fmt: skip


def status_of(settings: RegionSettings, data: Data, releases: Releases, answers: Answers) -> StatusAnswer:
    """The node at a glance."""
    return StatusAnswer(
        region=settings.region, node=settings.node, active=releases.activator.active_release,
        previous=releases.store.state.previous, waiting_for=waits_for(releases.activator) or "",
        withdrawn=len(data.withdrawals.items), computing=answers.compute.pending,
        degraded=answers.metrics.degraded_counts, export_policy=settings.export_policy,
        mapped_mb_max=answers.pager.bound.bytes_max >> 20, mapped_because=answers.pager.bound.why,
    )  # fmt: skip


def waits_for(activator: Activator[LoadedRelease]) -> str | None:
    """What a node waits for before it takes requests; None when it is ready."""
    return None if activator.active_release is not None else "an active release"


async def keep_release(
    settings: RegionSettings, releases: Releases, stop: asyncio.Event, background: Background, clock: Clock
) -> None:
    """Activate what was active before; then follow the channel, if the node is to, whatever fails."""
    for work in (releases.activator.start, releases.trials.start):
        try:
            await work()
        except Exception as error:
            # A disk that is full at the start must not keep the region from following its channel later.
            background.count_failure("releases")
            background.report("releases", error)
    active = releases.activator.active_release or "none"
    background.logger.info("release at start", extra={"fields": {"release": active}})
    if settings.follow:
        follower = Follower(
            store=releases.store, activator=releases.activator, channel=settings.channel, clock=clock,
            failed=lambda _error: background.count_failure("following"),
        )  # fmt: skip
        await follower.run(interval_s=settings.poll_interval_s, stop=stop)


def _learning(settings: RegionSettings, timely: LateEvents, answers: Answers, releases: Releases) -> LearnedEvents:
    return LearnedEvents(
        intake=timely, tastes=answers.tastes, weights=apply_rules(settings).weights,
        labels=lambda item: labels_of(releases.activator.current, item),
    )  # fmt: skip


def _discovery(
    settings: RegionSettings, data: Data, answers: Answers, releases: Releases, telemetry: Telemetry, clock: Clock,
    home_only: Door,
) -> tuple[DiscoveryDoors, SuggestKeeper]:  # fmt: skip
    folders: dict[str, Path] = {}  # Asked for every second, on the loop: a manifest is read once, not each time.

    def active() -> tuple[str, Path] | None:
        release = releases.activator.active_release
        if release is not None and release not in folders:
            folders.clear()
            folders[release] = releases.store.directory(release).path
        return (release, folders[release]) if release is not None else None

    keeper = SuggestKeeper(
        Path(settings.state_directory) / "suggest", release=active, clock=clock, registry=telemetry.registry
    )
    suggester = Suggester(
        region=settings.region, index=lambda: keeper.current, funnel=answers.funnel, compute=answers.compute,
        store=data.store, lease=releases.activator.lease, clock=clock, registry=telemetry.registry,
    )  # fmt: skip
    doors = DiscoveryDoors(
        region=settings.region, funnel=answers.funnel, compute=answers.compute, lease=releases.activator.lease,
        clock=clock, home_only=home_only, suggester=suggester,
    )  # fmt: skip
    return doors, keeper


def _open_answers(
    settings: RegionSettings, stack: AsyncExitStack, data: Data, releases: Releases, telemetry: Telemetry, clock: Clock
) -> Answers:  # fmt: skip
    return open_answers(
        settings, stack, store=data.store, withdrawals=data.withdrawals, book=data.book,
        lease=releases.activator.lease, grid=data.grid, telemetry=telemetry, clock=clock,
    )  # fmt: skip
