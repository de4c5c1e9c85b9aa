"""The last act: everything that crossed between regions, or to central, was recorded; it is searched for people."""

import asyncio
from collections.abc import Mapping, Sequence

from infra.demo.play import Play
from infra.demo.report import Line
from infra.local.residency import grep_telemetry, scan
from infra.local.scraping import open_connection
from infra.local.world import World


async def scan_captures(play: Play, users: Mapping[str, Sequence[str]]) -> None:
    """Search the captures and all telemetry; then plant a pseudonym on a link, to see that it would be found."""
    world = play.running_world
    names = world.configuration.region_names
    secrets = {
        "pseudonym": [world.keys(region).pseudonym("user", user) for region in names for user in users.get(region, ())],
        "user id": [user for region in names for user in users.get(region, ())],
        "event id": play.event_ids,
        **play.secrets,
    }
    with play.phase("residency"):
        report = await asyncio.to_thread(lambda: scan(world.captures(), secrets))
        spoken = await asyncio.to_thread(lambda: grep_telemetry(world.state, secrets, metrics=world.metrics()))
        await asyncio.to_thread(_plant, world, names[0], names[1], secrets["pseudonym"][0])
        planted = await asyncio.to_thread(lambda: scan(world.captures(), secrets))
    found = planted.leaks_total - report.leaks_total
    play.figures["residency"] = {
        "bytes_scanned": report.bytes_scanned, "leaks": report.leaks_total, "bytes_cut": report.bytes_cut,
        "messages": report.messages, "planted_found": found, "telemetry_bytes": spoken.bytes_scanned,
        "telemetry_leaks": spoken.leaks_total,
    }  # fmt: skip
    for leak in [*report.leaks, *spoken.leaks][:10]:
        play.show(Line("residency", f"LEAK on {leak.link}: {leak.kind}", leak.where, "none", met=False))
    play.show(
        Line("residency", "user ids, events and resident fields in what crossed between regions and to central",
             f"{report.leaks_total} in {report.bytes_scanned / 1e6:.1f} MB", "0",
             met=report.clean and report.bytes_scanned > 0)
    )  # fmt: skip
    play.show(
        Line("residency", "the same in logs, spans and metrics of every process",
             f"{spoken.leaks_total} in {spoken.bytes_scanned / 1e6:.1f} MB", "0", met=spoken.leaks_total == 0)
    )  # fmt: skip
    play.show(Line("residency", "a pseudonym planted on a link is found", f"{found} places", ">= 1", met=found >= 1))


def _plant(world: World, origin: str, destination: str, pseudonym: str) -> None:
    """Send what must never be sent, over a recorded link."""
    connection = open_connection(world.link_address(origin, destination), world.ssl_context(), timeout_s=5)
    try:
        connection.request("POST", "/v1/away", body=f'{{"type":"personal","subject":"{pseudonym}"}}')
        connection.getresponse().read()
    finally:
        connection.close()
