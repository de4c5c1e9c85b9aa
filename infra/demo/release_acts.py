"""The release acts: regions verify and activate, refuse what was tampered with, promote and roll back under load."""

import asyncio
from collections.abc import Sequence
from pathlib import Path

import msgspec

from infra.contracts.release import USER_TOWER, Manifest
from infra.demo.callers import Caller, mixed_calls
from infra.demo.load import Load, summarise, under_load
from infra.demo.play import CommandFailedError, Play
from infra.demo.probes import switch_everywhere_ms
from infra.demo.report import Line
from infra.plumbing.errors import AtollError
from infra.plumbing.http.tls import ClientTls
from region.releases import commands

ROLLBACK_GOAL_MS = 1000.0
LOAD_PER_S = 60.0
LOAD_BETWEEN_S = 2.0


async def verify(play: Play, release: str) -> None:
    """Every region holds the release, hashes it anew, and answers from it."""
    world = play.running_world
    with play.phase("verify"):
        for region in world.configuration.region_names:
            door = world.operator_door(region)
            verified = await asyncio.to_thread(commands.verify, *door, release=release)
            state = await asyncio.to_thread(commands.releases, *door)
            if not verified.ok or state.active != release:
                raise CommandFailedError(f"{region} does not answer from a verified {release}.")
    regions = len(world.configuration.region_names)
    play.show(Line("verify", "regions pulled, verified and activated it", f"{regions} of {regions}", met=True))


async def tamper(play: Play, region: str, bundle: Path) -> None:
    """A byte of the published candidate is changed on the server: the region refuses it and goes on as before."""
    world = play.running_world
    door = world.operator_door(region)
    manifest = _manifest(bundle)
    sha256 = _new_file(manifest, _manifest(bundle.parent / play.figures["release"]["id"]))
    (blob,) = (play.repository / "targets").rglob(f"*{sha256}")
    original = blob.read_bytes()
    with play.phase("tamper"):
        before = await asyncio.to_thread(commands.releases, *door)
        blob.write_bytes(original[:-1] + bytes([original[-1] ^ 1]))
        try:
            refusal = await _refusal(door, manifest.release_id)
        finally:
            blob.write_bytes(original)
        after = await asyncio.to_thread(commands.releases, *door)
    met = bool(refusal) and before.active == after.active
    play.figures["tamper"] = {
        "refused": bool(refusal),
        "reason": refusal,
        "active_untouched": before.active == after.active,
    }
    said = f"refused: {refusal.partition('.')[0]}" if refusal else "NOT refused"
    play.show(Line("tamper", "one changed byte in a published release", said, "refused", met=met))


def _manifest(bundle: Path) -> Manifest:
    return msgspec.json.decode((bundle / "manifest.json").read_bytes(), type=Manifest)


def _new_file(candidate: Manifest, active: Manifest) -> str:
    """Hash of a file that a region with the active release has to fetch: the tower's, unless a round left it as it was.

    What a round learned may be no more than its noise; then nothing is taken over, and only the model card is new.
    """
    held = {entry.sha256 for entry in active.files.values()}
    new = {name: entry.sha256 for name, entry in candidate.files.items() if entry.sha256 not in held}
    return new.get(USER_TOWER) or next(iter(new.values()))


async def _refusal(door: tuple[str, str, ClientTls | None], release: str) -> str:
    try:
        await asyncio.to_thread(commands.pull, *door, release=release)
    except AtollError as error:
        return str(error)
    return ""


async def promote_and_roll_back(play: Play, region: str, bundle: Path, callers: Sequence[Caller], item: str) -> None:
    """The candidate becomes active and is taken back, under load: no request fails, every edge follows."""
    world = play.running_world
    door = world.operator_door(region)
    edges, caller = world.edge_urls(region), next(caller for caller in callers if caller.home == region)
    stable, candidate = play.figures["release"]["id"], bundle.name
    load = Load(
        base_url=world.balancer_url, calls=mixed_calls(callers, [item], {}), rate_per_s=LOAD_PER_S, clock=play.clock,
        tls=world.ssl_context(),
    )  # fmt: skip
    took_ms: dict[str, float] = {}

    async def promote() -> None:
        await asyncio.to_thread(commands.promote, *door, release=candidate)

    async def roll_back() -> None:
        await asyncio.to_thread(commands.rollback, *door)

    async def scene(_running: Load) -> None:
        await asyncio.to_thread(commands.pull, *door, release=candidate)
        past_s, whole_s = 0.0, 3 * LOAD_BETWEEN_S
        for name, command, release in (("promote", promote, candidate), ("rollback", roll_back, stable)):
            past_s = await play.pause(LOAD_BETWEEN_S, what="switch", past_s=past_s, whole_s=whole_s)
            took_ms[name] = await switch_everywhere_ms(
                command, edges, caller, release=release, clock=play.clock, tls=world.ssl_context()
            )
        await play.pause(LOAD_BETWEEN_S, what="switch", past_s=past_s, whole_s=whole_s)

    with play.phase("switch"):
        await under_load(load, scene)
    summary = summarise(load.samples)
    rollback_ms = round(took_ms["rollback"], 1)
    play.figures["rollback_ms"] = rollback_ms
    play.figures["switch"] = {
        "promote_ms": round(took_ms["promote"], 1), "requests": summary.requests, "failed": summary.failed,
        "empty": summary.empty, "p99_ms": summary.p99_ms,
    }  # fmt: skip
    play.show(
        Line("switch", "candidate promoted and rolled back under load: failed, empty",
             f"{summary.failed} failed, {summary.empty} empty of {summary.requests:,}", "0, 0",
             met=summary.failed == 0 and summary.empty == 0)
    )  # fmt: skip
    play.show(
        Line("switch", "roll back: command -> every edge answers from the old release", f"{rollback_ms} ms",
             f"<= {ROLLBACK_GOAL_MS:.0f} ms", met=rollback_ms <= ROLLBACK_GOAL_MS)
    )  # fmt: skip
