"""Traffic between regions and to central in a world run with all acts, searched for people; and plants to be found.

A real world of two regions with two edges each, gateways, balancer and central, every link between them recorded at its
ends. The acts: lists of every kind at home and abroad, with and without the phone's own vector; events, opt-outs,
exports and erasures, of travellers too; the home region killed and healed; releases pulled and switched; the operator's
commands; a federated round over phones. What crossed is searched for pseudonyms, user ids, events, sessions, tokens
and features in every form of `infra.local.residency`: hashed, base64, compressed, inside npz, Arrow and Parquet. So are
logs, spans and metrics. Then a plant of every form is put into every kind of place, and one of each form is sent over a
recorded link: all are to be found. Between the acts every process's connections are looked at: none may lead to another
region, or to central, past the recorded links. Options: `users` (whose lists are asked for, default 12), `phones` (a
region, 30).
"""

import http.client
from collections.abc import Mapping, Sequence

from infra.bench.catalogue import BenchRequest
from infra.bench.residency.acts import AWAY, HOME, Acts
from infra.bench.residency.plants import Planted, as_capture, forms, planted
from infra.bench.results import Bar, Measured, at_least, at_most
from infra.bench.serving.published import publish_ring
from infra.local.configuration import DirectoriesConfiguration, RegionConfiguration, WorldConfiguration
from infra.local.residency import grep_telemetry
from infra.local.residency.scan import ResidencyReport, Searcher, scan_with
from infra.local.world import World, start_world
from infra.plumbing.errors import UnavailableError
from infra.plumbing.progress import Progress

SHOWN_MAX = 5


def run(request: BenchRequest) -> Measured:
    """One world, every act, one search; plants behind it."""
    ring = publish_ring(request, releases=2)
    configuration = WorldConfiguration(
        regions=(RegionConfiguration(name=HOME), RegionConfiguration(name=AWAY)), sample_ratio=1.0,
        directories=DirectoriesConfiguration(
            state=str(request.work / "world"), repository=str(ring.repository), environments=str(request.environments)
        ),
    )  # fmt: skip
    with start_world(
        configuration, request.work / "world", repository=ring.repository, dataset=ring.dataset,
        progress=request.progress,
    ) as world:  # fmt: skip
        acts = Acts(request, world, ring)
        acts.play()
        secrets = acts.traces.secrets(world)
        searcher = Searcher(secrets)
        report = scan_with(crossed(world), searcher)
        spoken = grep_telemetry(world.state, secrets, metrics=world.metrics())
        one = acts.traces.planted(world)
        missed = _missed_plants(searcher, one, request.progress)
        sent, found = _sent_plants(world, searcher, one, before=report)
    figures = {
        "bytes_scanned": float(report.bytes_scanned), "leaks": float(report.leaks_total + spoken.leaks_total),
        "plants_missed": float(len(missed) + sent - found), "plants": float(_count(one) + sent),
        "bytes_decoded": float(report.bytes_decoded), "bytes_cut": float(report.bytes_cut),
        "messages": float(report.messages), "streams_unparsed": float(report.streams_unparsed),
        "bodies_undecodable": float(report.bodies_undecodable), "forms_searched": float(report.secrets),
        "connections_past_links": float(len(acts.watch.past_links)), "connections_seen": float(acts.watch.seen),
        "telemetry_bytes": float(spoken.bytes_scanned), "acts": float(len(acts.done)),
    }  # fmt: skip
    return Measured(figures=figures, bars=_bars(figures), notes=_notes(acts, report, spoken, missed))


def crossed(world: World) -> dict[str, bytes]:
    """Captures of the links that leave a region: not what its own edges say to it."""
    captures = world.captures()
    return {name: content for name, content in captures.items() if len(set(name.split("--"))) > 1}


def _bars(figures: Mapping[str, float]) -> tuple[Bar, ...]:
    return (
        at_most("leaks in what crossed, and in logs, spans and metrics", figures["leaks"], 0.0, unit="leaks"),
        at_most("plants that the search misses", figures["plants_missed"], 0.0, unit="plants"),
        at_most("bodies that could not be looked into", figures["bodies_undecodable"], 0.0, unit="bodies"),
        at_most("bytes that crossed and were not kept", figures["bytes_cut"], 0.0, unit="bytes"),
        at_most(
            "ways between regions that no link records", figures["connections_past_links"], 0.0, unit="connections"
        ),
        at_least("connections of the world that were looked at", figures["connections_seen"], 1.0, unit="connections"),
        at_least("bytes that crossed", figures["bytes_scanned"], 1e6, unit="bytes"),
    )


def _notes(acts: Acts, report: ResidencyReport, spoken: ResidencyReport, missed: Sequence[str]) -> tuple[str, ...]:
    found = [f"LEAK on {leak.link}: {leak.kind}, {leak.where}" for leak in (*report.leaks, *spoken.leaks)[:SHOWN_MAX]]
    return (
        f"acts: {', '.join(acts.done)}",
        "captures hold what links carry between ending TLS and beginning it anew, so the search sees all that is said; "
        "boxes that are sealed for the home region are searched as the bytes that they are.",
        "hashes with a secret key or salt cannot be searched for; pseudonyms are such hashes, and are searched for as "
        "they are.",
        *found,
        *(f"PAST the links: {one} to {other}" for one, other in sorted(acts.watch.past_links)[:SHOWN_MAX]),
        *(f"MISSED plant: {name}" for name in missed[:SHOWN_MAX]),
    )


def _count(one: Planted) -> int:
    return sum(1 for _ in planted(one))


def _missed_plants(searcher: Searcher, one: Planted, progress: Progress) -> list[str]:
    missed, total = [], _count(one)
    for number, (form, place, streams) in enumerate(planted(one), start=1):
        if scan_with({f"{HOME}--{AWAY}": as_capture(streams)}, searcher).leaks_total == 0:
            missed.append(f"{form} in {place}")
        if number % 50 == 0 or number == total:
            progress.advance(number, total, "plants searched for")
    return missed


def _sent_plants(world: World, searcher: Searcher, one: Planted, *, before: ResidencyReport) -> tuple[int, int]:
    """Send every form over a recorded link; how many were sent, and in how many connections something is found."""
    host, _, port = world.link_address(HOME, AWAY).partition(":")
    held = forms(one)
    for plant in held.values():
        connection = http.client.HTTPConnection(host, int(port), timeout=5.0)
        try:
            connection.request("POST", "/v1/away", body=plant)
            connection.getresponse().read()
        except OSError as error:
            raise UnavailableError(f"the link between {HOME} and {AWAY} does not take a plant: {error}.") from error
        finally:
            connection.close()
    after = scan_with(crossed(world), searcher)
    known = {(leak.link, leak.where.partition(",")[0]) for leak in before.leaks}
    return len(held), len({(leak.link, leak.where.partition(",")[0]) for leak in after.leaks} - known)
