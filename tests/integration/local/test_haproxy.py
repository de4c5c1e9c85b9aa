"""The same world behind HAProxy: its generated configuration is valid and does what the embedded balancer does."""

import json
import os
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from infra.local.balancer.settings import AddressRange, BalancedRegion, BalancerSettings, EdgeAddress
from infra.local.certificates import NEXT_KEY, WorldAuthority, certificate_file
from infra.local.configuration import PortsConfiguration
from infra.local.haproxy import render_haproxy
from infra.local.haproxy_control import (
    CertificateNotTakenError,
    HaproxyControlError,
    hand_authorities_to_haproxy,
    hand_to_haproxy,
    takes_calls,
)
from infra.local.packages import PackageMissingError, ensure_debian_package
from infra.local.ports import assign_ports, is_port_free
from infra.local.rotating import own_certificate, shown_by
from infra.local.securing import Securing, balancer_doors
from infra.plumbing.clock import SystemClock
from infra.plumbing.http.tls import ClientTls, client_context

FAKE_EDGE = """
import http.server, json, os, ssl, sys
class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = 'HTTP/1.1'
    def do_GET(self):
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.rfile.read(int(headers.get('content-length', 0)))
        body = json.dumps({'edge': sys.argv[1], 'headers': headers}).encode()
        draining = self.path == '/health/ready' and os.path.exists(os.environ.get('DRAIN', '') + sys.argv[1])
        self.send_response(503 if draining else 200)
        self.send_header('Content-Length', str(len(body))); self.end_headers()
        self.wfile.write(body)
    do_POST = do_GET
    def log_message(self, *_): pass
server = http.server.ThreadingHTTPServer(('127.0.0.1', int(sys.argv[2])), Handler)
if len(sys.argv) > 3:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(sys.argv[3])
    context.load_verify_locations(sys.argv[4])
    context.verify_mode = ssl.CERT_REQUIRED
    server.socket = context.wrap_socket(server.socket, server_side=True)
server.serve_forever()
"""
Answer = dict[str, Any]


@pytest.fixture(scope="module")
def haproxy() -> str:
    if os.environ.get("ATOLL_WITHOUT_HAPROXY") == "1":
        pytest.skip("ATOLL_WITHOUT_HAPROXY=1")
    try:
        return ensure_debian_package("haproxy")
    except PackageMissingError as error:
        pytest.fail(f"{error} Or set ATOLL_WITHOUT_HAPROXY=1 to leave this test out.")


@pytest.fixture
def ports(tmp_path: Path) -> dict[str, int]:
    return assign_ports(
        ["balancer", "east-1", "east-2", "west-1"],
        configured=PortsConfiguration(),
        previous={},
        seed=str(tmp_path),
        is_free=lambda port: is_port_free("127.0.0.1", port),
    )


@pytest.fixture
def edges(ports: dict[str, int], tmp_path: Path) -> Iterator[dict[str, subprocess.Popen[bytes]]]:
    started = {
        name: subprocess.Popen(
            [sys.executable, "-c", FAKE_EDGE, name, str(ports[name])],
            stderr=subprocess.DEVNULL,
            env={**os.environ, "DRAIN": f"{tmp_path}/drains-"},
        )
        for name in ("east-1", "east-2", "west-1")
    }
    yield started
    for process in started.values():
        process.kill()
        process.wait()


def settings(ports: dict[str, int], securing: Securing | None = None) -> BalancerSettings:
    def edge(name: str) -> EdgeAddress:
        return EdgeAddress(name=name.replace("-", "/"), host="127.0.0.1", port=ports[name])

    securing = securing or Securing(Path("none"), enabled=False)
    return BalancerSettings(
        port=ports["balancer"],
        tls=securing.listen("balancer", balancer_doors()),
        edges_tls=securing.connect("balancer"),
        regions=(
            BalancedRegion(name="east", edges=(edge("east-1"), edge("east-2")), nearest=("west",)),
            BalancedRegion(name="west", edges=(edge("west-1"),), nearest=("east",)),
        ),
        addresses=(AddressRange(network="192.0.2.0/24", region="west"),),
    )


def call(
    url: str, *, headers: dict[str, str] | None = None, data: bytes | None = None, tls: ssl.SSLContext | None = None
) -> Answer:
    request = urllib.request.Request(url, headers=headers or {}, data=data)
    with urllib.request.urlopen(request, timeout=5, context=tls) as answer:
        content = answer.read().decode()
    return json.loads(content) if content.startswith("{") else {"text": content}


def eventually(holds: Callable[[], bool]) -> bool:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            if holds():
                return True
        except OSError:
            pass
        time.sleep(0.02)
    return False


def test_the_world_behind_haproxy(
    haproxy: str, ports: dict[str, int], edges: dict[str, subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    file = tmp_path / "haproxy.cfg"
    control = tmp_path / "control"
    file.write_text(render_haproxy(settings(ports), control=control))
    check = subprocess.run([haproxy, "-c", "-f", str(file)], capture_output=True, text=True, check=False)
    assert check.returncode == 0, check.stderr
    assert "WARNING" not in check.stderr, check.stderr
    url = f"http://127.0.0.1:{ports['balancer']}"
    process = subprocess.Popen([haproxy, "-db", "-f", str(file)], stderr=subprocess.DEVNULL)

    def answering(count: int = 20) -> set[str]:
        return {call(f"{url}/x?{number}")["edge"] for number in range(count)}

    try:
        assert eventually(lambda: answering() == {"east-1", "east-2"})
        assert call(f"{url}/health/ready") == {"status": "ready"}
        # The same list, and the same caller's lists, are asked of the same edge; now and then a connection that is
        # only just closing still counts as load, and moves one.
        popular = Counter(call(f"{url}/v1/recommendations/popular?n=5")["edge"] for _ in range(9))
        assert popular.most_common(1)[0][1] >= 6

        def edge_of(who: int) -> str:
            mine = {"Authorization": f"Bearer {who}"}
            seen = [call(f"{url}/v1/recommendations/personal?n={n}", headers=mine)["edge"] for n in range(3)]
            return str(Counter(seen).most_common(1)[0][0])

        first = [edge_of(who) for who in range(12)]
        assert set(first) == {"east-1", "east-2"}
        assert sum(before == edge_of(who) for who, before in enumerate(first)) >= 9
        away = call(f"{url}/x", headers={"Atoll-Client-Region": "west"})
        assert away["edge"] == "west-1"
        assert away["headers"]["atoll-client-region"] == "west"
        assert len(away["headers"]["atoll-request-id"]) >= 8
        assert call(f"{url}/x", headers={"Atoll-Client-Region": "nowhere"})["edge"].startswith("east")
        assert "haproxy_" in call(f"{url}/metrics")["text"]
        assert takes_calls(control, "east/1")
        assert takes_calls(control, "west/1")
        with pytest.raises(HaproxyControlError, match="knows no edge east/3"):
            takes_calls(control, "east/3")

        # An edge that says that it drains loses its callers while it still answers, and gets them back later.
        (tmp_path / "drains-east-1").touch()
        assert eventually(lambda: answering() == {"east-2"})
        assert not takes_calls(control, "east/1")
        (tmp_path / "drains-east-1").unlink()
        assert eventually(lambda: takes_calls(control, "east/1"))
        assert eventually(lambda: answering() == {"east-1", "east-2"})

        # A killed edge costs nobody an answer, neither a list nor events; then the whole region.
        edges["east-1"].kill()
        assert answering() == {"east-2"}
        assert call(f"{url}/v1/events", data=b"{}")["edge"] == "east-2"
        edges["east-2"].kill()
        assert answering() == {"west-1"}
        away = call(f"{url}/v1/events", data=b"{}")
        assert (away["edge"], away["headers"]["atoll-client-region"]) == ("west-1", "east")
    finally:
        process.terminate()
        process.wait(10)


def test_haproxy_speaks_tls_with_both_sides_and_takes_a_new_certificate(
    haproxy: str, ports: dict[str, int], tmp_path: Path
) -> None:
    securing, clock = Securing(tmp_path / "tls", enabled=True), SystemClock()
    authority = WorldAuthority(securing.directory, host="127.0.0.1", clock=clock)
    authority.ensure(["balancer", "east-1", "operator"])
    own, control = certificate_file(securing.directory, "balancer"), tmp_path / "control"
    file = tmp_path / "haproxy.cfg"
    file.write_text(render_haproxy(settings(ports, securing), control=control))
    edge = subprocess.Popen(
        [sys.executable, "-c", FAKE_EDGE, "east-1", str(ports["east-1"]),
         str(certificate_file(securing.directory, "east-1")), str(authority.file)], stderr=subprocess.DEVNULL,
    )  # fmt: skip
    process = subprocess.Popen([haproxy, "-db", "-f", str(file)], stderr=subprocess.DEVNULL)
    url = f"https://127.0.0.1:{ports['balancer']}"
    trusting, operator = securing.trusting(), securing.connect("operator")
    assert trusting is not None
    assert operator is not None
    caller, watcher = (client_context(tls, clock=clock).context for tls in (trusting, operator))
    try:
        assert eventually(lambda: call(f"{url}/x", tls=caller)["edge"] == "east-1")
        with pytest.raises(urllib.error.HTTPError, match="403"):
            call(f"{url}/metrics", tls=caller)
        assert "haproxy_" in call(f"{url}/metrics", tls=watcher)["text"]
        before = shown_by("127.0.0.1", ports["balancer"], caller)
        assert before == own_certificate(own)
        authority.issue("balancer")
        hand_to_haproxy(control, own)
        after = shown_by("127.0.0.1", ports["balancer"], caller)
        assert after == own_certificate(own) != before
        assert call(f"{url}/x", tls=caller)["edge"] == "east-1"
        # Another authority beside its own: who shows a certificate of that one is let in from then on.
        successor = WorldAuthority(securing.directory, host="127.0.0.1", clock=clock, key_name=NEXT_KEY)
        by_successor = str(successor.issue("operator", to=tmp_path / "by-successor.pem"))
        later = ClientTls(ca_file=str(authority.file), certificate_file=by_successor, key_file=by_successor)
        with pytest.raises(OSError, match=r"unknown ca|closed|reset"):
            call(f"{url}/metrics", tls=client_context(later, clock=clock).context)
        hand_authorities_to_haproxy(control, authority.file)
        assert "haproxy_" in call(f"{url}/metrics", tls=client_context(later, clock=clock).context)["text"]
        own.write_text("nonsense")
        with pytest.raises(CertificateNotTakenError, match="refuses"):
            hand_to_haproxy(control, own)
    finally:
        for one in (process, edge):
            one.terminate()
            one.wait(10)
