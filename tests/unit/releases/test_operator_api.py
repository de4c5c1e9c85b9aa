"""The operator's API over HTTP, called by the functions behind the command line."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec
import pytest
from aiohttp import ClientSession, web
from aiohttp.test_utils import TestServer

from infra.plumbing.clock import ManualClock
from infra.plumbing.errors import (
    AtollError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    UnauthorizedError,
    UnavailableError,
)
from infra.plumbing.http.problems import problem_for
from infra.plumbing.releases.messages import Comparison
from infra.plumbing.tuf_client.client import ReleaseClient
from region.releases import commands
from region.releases.activation import Activator
from region.releases.audit import AuditLog
from region.releases.operator_api import BODY_BYTES_MAX, operator_routes
from region.releases.store import ReleaseDirectory, ReleaseStore
from region.releases.trial import TrialKind, TrialPlan
from region.releases.trials import Trials
from tests.support.repositories import StaticServer
from tests.unit.releases.conftest import Central
from tests.unit.releases.test_activation import Loaded, harm

KEY = "operator-key"
T = TypeVar("T")


@web.middleware
async def frame(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    """Errors as the real frame maps them."""
    try:
        return await handler(request)
    except AtollError as error:
        return problem_for(error, "r")


def authorize(request: web.Request) -> str:
    if request.headers.get("Authorization") != f"Bearer {KEY}":
        raise UnauthorizedError("Show an operator's key.")
    return "ada"


@pytest.fixture
async def url(central: Central, client: ReleaseClient, tmp_path: Path) -> AsyncIterator[str]:
    async def load(directory: ReleaseDirectory) -> Loaded:
        return Loaded(directory.release_id)

    async def told(_: str) -> None:
        return None

    store = ReleaseStore(tmp_path / "store", source=client, clock=ManualClock())
    audit = AuditLog(tmp_path / "audit.jsonl")
    activator: Activator[Loaded] = Activator(store=store, load=load, audit=audit, clock=ManualClock(), on_switch=told)
    trials: Trials[Loaded] = Trials(
        activator=activator, marker=tmp_path / "trial", clock=ManualClock(), uniform=lambda: 0.5, ended=told
    )
    app = web.Application(middlewares=[frame])
    app.add_routes(operator_routes(store=store, activator=activator, trials=trials, audit=audit, authorize=authorize))
    async with TestServer(app) as server:
        yield str(server.make_url(""))
    await activator.close()


async def call(function: Callable[..., T], url: str, key: str = KEY, **arguments: object) -> T:
    return await asyncio.to_thread(function, url, key, **arguments)


async def test_an_operators_day(url: str, central: Central, tmp_path: Path) -> None:
    one = central.publish(seed=1).release
    assert (await call(commands.releases, url)).releases == ()
    pulled = await call(commands.pull, url, channel="stable")
    assert (pulled.release, pulled.bytes_reused) == (one, 0)
    assert (await call(commands.verify, url, release=one)).ok
    assert (await call(commands.promote, url, release=one)).to_release == one
    two = central.publish(seed=2).release
    await call(commands.pull, url, release=two)
    await call(commands.promote, url, release=two)
    status = await call(commands.releases, url)
    assert (status.active, status.previous) == (two, one)
    assert [(item.release, item.active, item.previous, item.warm) for item in status.releases] == [
        (two, True, False, True),
        (one, False, True, True),
    ]
    assert (await call(commands.rollback, url)).to_release == one
    assert (await call(commands.pin, url)).pinned
    with pytest.raises(ConflictError, match="pinned"):
        await call(commands.promote, url, release=two)
    assert not (await call(commands.unpin, url)).pinned
    harm(tmp_path / "store" / "releases" / two / "rules.json")
    report = await call(commands.verify, url, release=two)
    assert (report.ok, report.damaged) == (False, ("rules.json",))
    actions = [(item.action, item.outcome) for item in (await call(commands.audit, url)).entries]
    assert actions == [
        ("pull", "done"),
        ("verify", "done"),
        ("promote", "done"),
        ("pull", "done"),
        ("promote", "done"),
        ("rollback", "done"),
        ("pin", "done"),
        ("promote", "refused"),
        ("unpin", "done"),
        ("verify", "failed"),
    ]
    assert len((await call(commands.audit, url, count=2)).entries) == 2


async def test_a_tampered_release_is_refused_with_its_reason(url: str, central: Central, server: StaticServer) -> None:
    one = central.publish(seed=1).release
    server.faults[f"{one}.json"] = lambda content: b"!" + content[1:]
    with pytest.raises(ConflictError, match="refused as tampered: the content does not have the hash"):
        await call(commands.pull, url, channel="stable")
    entries = (await call(commands.audit, url)).entries
    assert (entries[-1].action, entries[-1].outcome) == ("pull", "refused")
    assert "tampered" in entries[-1].detail


async def test_errors_keep_their_kind(url: str, central: Central, server: StaticServer) -> None:
    for key in ("", "wrong"):
        with pytest.raises(UnauthorizedError):
            await call(commands.releases, url, key)
    with pytest.raises(NotFoundError, match="Pull it first"):
        await call(commands.promote, url, release="0" * 20)
    with pytest.raises(InvalidInputError, match="not a release id"):
        await call(commands.verify, url, release="latest")
    with pytest.raises(InvalidInputError, match="a channel or a release"):
        await call(commands.pull, url)
    with pytest.raises(InvalidInputError, match="a channel or a release"):
        await call(commands.pull, url, release="0" * 20, channel="stable")
    with pytest.raises(InvalidInputError, match="whole number from 1 to"):
        await call(commands.audit, url, count=0)
    server.missing.add("timestamp.json")
    with pytest.raises(UnavailableError, match="404"):
        await call(commands.pull, url, channel="stable")
    (last,) = (await call(commands.audit, url, count=1)).entries
    assert (last.operator, last.action, last.outcome) == ("ada", "pull", "failed")
    assert "404" in last.detail


async def test_callers_that_cannot_reach_a_region() -> None:
    with pytest.raises(UnavailableError, match="does not answer"):
        await call(commands.releases, "http://127.0.0.1:9")
    with pytest.raises(InvalidInputError, match="no address"):
        await call(commands.releases, "region-1")


async def test_something_else_that_answers() -> None:
    async def other(_: web.Request) -> web.Response:
        return web.Response(text="<html>", status=200)

    app = web.Application()
    app.add_routes([web.get("/operator/v1/releases", other)])
    async with TestServer(app) as server:
        with pytest.raises(AtollError, match="not its own"):
            await call(commands.releases, str(server.make_url("")))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "Send JSON with"),
        (b"[]", "Send JSON with"),
        (b'{"releas": "x"}', "releas"),
        (b"\xff\xfe", "Send JSON with"),
        (b'{"release": "' + b"0" * BODY_BYTES_MAX + b'"}', "longer than"),
    ],
)
async def test_bodies_that_cannot_be_used(url: str, body: bytes, message: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    target = f"{url}/operator/v1/promote"
    async with ClientSession(headers=headers) as session, session.post(target, data=body) as response:
        problem = msgspec.json.decode(await response.read(), type=dict[str, object])
    assert response.status == 400
    assert message in str(problem["detail"])


@pytest.mark.parametrize("count", ["0", "-1", "x", "1" * 30, "1001", "²"])
async def test_counts_that_cannot_be_used(url: str, count: str) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    target = f"{url}/operator/v1/audit"
    async with ClientSession(headers=headers) as session, session.get(target, params={"n": count}) as response:
        assert response.status == 400


async def test_a_dry_run_checks_everything_and_changes_nothing(url: str, central: Central, tmp_path: Path) -> None:
    one = central.publish(seed=1).release
    with pytest.raises(NotFoundError):
        await call(commands.promote, url, release=one, dry_run=True)
    await call(commands.pull, url, release=one)
    answer = await call(commands.promote, url, release=one, dry_run=True)
    assert (answer.dry_run, answer.to_release) == (True, one)
    assert (await call(commands.releases, url)).active is None
    harm(tmp_path / "store" / "releases" / one / "rules.json")
    with pytest.raises(AtollError, match="changed since they were verified"):
        await call(commands.promote, url, release=one, dry_run=True)


async def test_one_release_and_two_side_by_side(url: str, central: Central) -> None:
    one, two = (central.publish(seed=seed).release for seed in (1, 2))
    for release in (one, two):
        await call(commands.pull, url, release=release)
    with pytest.raises(UnavailableError, match="runs no release yet"):
        await call(commands.diff, url, after=two)
    await call(commands.promote, url, release=one)
    seen = await call(commands.inspect, url, release=one)
    assert (seen.release, seen.active, seen.previous, seen.metrics["ndcg10"]) == (one, True, False, 0.1)
    assert seen.sizes["vectors"] == seen.files["item_vectors.npy"].length
    assert "evaluation.json" in seen.note
    found = await call(commands.diff, url, after=two, people=2)
    assert (found.files.before, found.files.after, found.files.same_content) == (one, two, False)
    assert "item_vectors.npy" in found.files.changed
    assert found.compared.drift is not None
    assert found.compared.drift.items == 50
    # The towers of these releases are no models.
    assert "user_tower.tflite" in found.compared.notes[-1]
    assert [entry.action for entry in (await call(commands.audit, url)).entries] == ["pull", "pull", "promote"]


async def test_one_comparison_at_a_time_and_none_of_what_is_too_large(
    url: str, central: Central, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, two = (central.publish(seed=seed).release for seed in (1, 2))
    for release in (one, two):
        await call(commands.pull, url, release=release)
    begun, over = asyncio.Event(), asyncio.Event()

    async def compared(*_: object) -> Comparison:
        begun.set()
        await over.wait()
        raise AtollError("the comparison failed.")

    with monkeypatch.context() as patch:
        patch.setattr("region.releases.looks._compared", compared)
        first = asyncio.create_task(call(commands.diff, url, before=one, after=two))
        await begun.wait()
        with pytest.raises(ConflictError, match="are being compared here"):
            await call(commands.diff, url, before=one, after=two)
        over.set()
        with pytest.raises(AtollError, match="failed"):
            await first
        patch.setattr("region.releases.looks.COMPARED_BYTES_MAX", 1)
        found = await call(commands.diff, url, before=one, after=two)
    assert (found.compared.drift, found.compared.sizes["vectors"][0] > 0) == (None, True)
    assert "too large" in found.compared.notes[0]


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("releases/latest", 400), ("releases/%00", 400), (f"releases/{'0' * 20}", 404), ("diff", 400),
        ("diff?after=x", 400), (f"diff?after={'0' * 20}&people=x", 400), (f"diff?after={'0' * 20}&people=501", 400),
        (f"diff?after={'0' * 20}&seed=-1", 400), (f"diff?after={'0' * 20}&before={'0' * 20}", 404),
    ],
)  # fmt: skip
async def test_questions_that_cannot_be_answered(url: str, path: str, status: int) -> None:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with ClientSession(headers=headers) as session, session.get(f"{url}/operator/v1/{path}") as response:
        assert response.status == status, await response.text()


async def test_promoting_twice_is_promoting_once(url: str, central: Central) -> None:
    one = central.publish(seed=1).release
    await call(commands.pull, url, release=one)
    for _ in range(2):
        assert (await call(commands.promote, url, release=one)).to_release == one
    status = await call(commands.releases, url)
    assert (status.active, status.previous) == (one, None)


async def test_a_frozen_region_takes_no_change_but_a_roll_back(url: str, central: Central) -> None:
    one, two = (central.publish(seed=seed).release for seed in (1, 2))
    for release in (one, two):
        await call(commands.pull, url, release=release)
        await call(commands.promote, url, release=release)
    assert (await call(commands.freeze, url)).frozen
    plan = TrialPlan(release=one)
    for refused in (
        call(commands.promote, url, release=one),
        call(commands.promote, url, release=one, dry_run=True),
        call(commands.pull, url, release=one),
        call(commands.begin_trial, url, kind=TrialKind.CANARY, plan=plan),
    ):
        with pytest.raises(ConflictError, match="frozen"):
            await refused
    assert ("pull", "refused") in [(one.action, one.outcome) for one in (await call(commands.audit, url)).entries]
    assert (await call(commands.rollback, url)).to_release == one
    assert (await call(commands.releases, url)).frozen
    assert not (await call(commands.unfreeze, url)).frozen
    assert (await call(commands.promote, url, release=two)).to_release == two


async def test_what_could_be_pulled_is_shown_with_channels_and_what_is_here(url: str, central: Central) -> None:
    assert (await call(commands.published, url)).releases == ()
    first, second = central.publish(seed=1).release, central.publish(seed=2, channel="next").release
    await call(commands.pull, url, release=first)
    third = central.publish(seed=3).release
    found = {one.release: (one.channels, one.here) for one in (await call(commands.published, url)).releases}
    assert found == {third: (("stable",), False), second: (("next",), False), first: ((), True)}


async def test_nothing_is_tried_where_nothing_is_active(url: str, central: Central) -> None:
    release = central.publish(seed=1).release
    await call(commands.pull, url, release=release)
    with pytest.raises(AtollError, match="no active release to compare with"):
        await call(commands.begin_trial, url, kind=TrialKind.CANARY, plan=TrialPlan(release=release))
    (entry,) = (await call(commands.audit, url, count=1)).entries
    assert (entry.action, entry.outcome) == ("canary", "refused")


async def test_what_a_pull_deleted_stands_in_answer_and_audit(url: str, central: Central) -> None:
    releases = [central.publish(seed=seed).release for seed in range(1, 6)]
    answers = [await call(commands.pull, url, release=release) for release in releases]
    assert [answer.collected for answer in answers] == [(), (), (), (), (releases[0],)]
    assert f"no longer here: {releases[0]}" in (await call(commands.audit, url, count=1)).entries[0].detail


async def test_a_trial_is_begun_looked_at_and_stopped(url: str, central: Central) -> None:
    one, two = (central.publish(seed=seed).release for seed in (1, 2))
    for release in (one, two):
        await call(commands.pull, url, release=release)
    await call(commands.promote, url, release=one)
    with pytest.raises(NotFoundError, match="No release has been tried"):
        await call(commands.trial, url)
    report = await call(commands.begin_trial, url, kind=TrialKind.SHADOW, plan=TrialPlan(release=two))
    assert (report.kind, report.decision, report.plan.release) == (TrialKind.SHADOW, "go-on", two)
    with pytest.raises(ConflictError, match="is being tried here"):
        await call(commands.begin_trial, url, kind=TrialKind.CANARY, plan=TrialPlan(release=two))
    assert (await call(commands.trial, url)).plan.release == two
    stopped = await call(commands.stop_trial, url)
    assert (stopped.decision, stopped.why) == ("hold", "an operator stopped it")
    assert (await call(commands.releases, url)).active == one
    with pytest.raises(NotFoundError):
        await call(commands.stop_trial, url)


@pytest.mark.parametrize("field", ["share", "alpha", "duration_s", "click_loss_max"])
async def test_a_plan_out_of_bounds_is_refused_by_its_field(url: str, field: str) -> None:
    body = msgspec.json.encode({"release": "0" * 20, field: 7e7})
    async with (
        ClientSession() as session,
        session.post(f"{url}/operator/v1/canary", data=body, headers={"Authorization": f"Bearer {KEY}"}) as answer,
    ):
        assert answer.status == 400
        assert field in await answer.text()
