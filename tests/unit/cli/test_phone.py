"""`atoll phone`: what a phone notes without a network reaches its region when there is one."""

import json
import secrets
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any, ClassVar

import pytest

from federation.device.enrolment import IdentityFile, read_enrolment
from federation.device.keystore import FileKeyStore
from federation.flower.supervisor import free_ports
from federation.messages import VECTOR_HEADER, VECTOR_RELEASE_HEADER
from infra.cli.__main__ import main
from infra.local.layout import layout_of
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.keys import RegionKeys, TrustDirectory
from tests.unit.federation.building import write_release


class _Edge(BaseHTTPRequestHandler):
    heard: ClassVar[list[tuple[str, Any]]] = []

    def do_PUT(self) -> None:
        self.do_POST()

    def do_POST(self) -> None:
        self.heard.append((self.path, json.loads(self.rfile.read(int(self.headers["Content-Length"])))))
        body = b'{"accepted": 1, "duplicates": 0}'
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_words: object) -> None:
        pass


@pytest.fixture
def edge() -> Iterator[str]:
    _Edge.heard.clear()
    server = HTTPServer(("127.0.0.1", 0), _Edge)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_phone_without_a_network_tells_its_region_later(
    edge: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    disk, token = ["--dir", str(tmp_path / "phone"), "--json", "-"], tmp_path / "token"
    token.write_text("the-token\n")

    def said(*words: str, code: int = 0) -> Any:
        assert main(["phone", *words, *disk]) == code
        return json.loads(capsys.readouterr().out)

    said("note", "--item", "318", "--type", "like")
    said("note", "--item", "secret", "--type", "like", "--sensitive")
    assert said("choose", "out")["waiting"] == {"event": 1, "choice": 1}
    (closed,) = free_ports(1)
    away = said("send", "--edge", f"http://127.0.0.1:{closed}", "--token-file", str(token), code=1)
    assert (away["taken"], away["waiting"]) == (0, {"event": 1, "choice": 1})
    back = said("send", "--edge", edge, "--token-file", str(token))
    assert (back["taken"], back["stopped"], back["waiting"]) == (2, "", {})
    assert [path for path, _ in _Edge.heard] == ["/v1/events", "/v1/privacy/opt-out"]
    assert [event["item"] for event in _Edge.heard[0][1]["events"]] == ["318"]
    assert said("outbox") == {"waiting": {}, "dropped": {}}
    said("erase")
    assert [path.name for path in (tmp_path / "phone").iterdir()] == ["phone.lock"]


def test_a_phone_is_enrolled_and_computes_its_vector_from_what_only_it_knows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    layout, keys = layout_of(tmp_path / "world"), RegionKeys.generate("us-east")
    keys.save(layout.keys("us-east"))
    TrustDirectory.of([keys]).save(layout.trust)
    disk, release = ["--dir", str(tmp_path / "phone"), "--json", "-"], str(write_release(tmp_path))

    def said(*words: str, code: int = 0) -> Any:
        assert main(["phone", *words, *disk]) == code
        return json.loads(capsys.readouterr().out) if code == 0 else capsys.readouterr().err

    public = said("key")["public"]
    assert said("key")["public"] == public
    out = tmp_path / "device.json"
    words = ["--region", "us-east", "--state", str(layout.state), "--out", str(out)]
    assert main(["keys", "device", "--public", public, *words]) == 0
    assert main(["keys", "device", "--public", "42", *words]) == 2
    capsys.readouterr()
    keys_of = FileKeyStore(tmp_path / "phone" / "phone.key", entropy=secrets.token_bytes)
    file = IdentityFile(tmp_path / "phone" / "phone.identity", keys_of, secrets.token_bytes)
    identity = file.enrolled(read_enrolment(out), now_ms=SystemClock().now_ms())
    assert identity.private not in (tmp_path / "phone" / "phone.identity").read_bytes()
    with pytest.raises(InvalidInputError, match="expired"):
        file.enrolled(read_enrolment(out), now_ms=SystemClock().now_ms() + 40 * 86_400_000)
    other = IdentityFile(tmp_path / "other", keys_of, secrets.token_bytes)
    with pytest.raises(InvalidInputError, match="another device"):
        other.enrolled(read_enrolment(out), now_ms=SystemClock().now_ms())
    assert "note" in said("vector", "--release", release, code=2)
    for item in range(6):
        said("note", "--item", f"i{item}", "--type", "like", "--sensitive")
    found = said("vector", "--release", release)
    assert (found["events"], set(found["headers"])) == (6, {VECTOR_HEADER, VECTOR_RELEASE_HEADER})
    said("erase")
    assert [path.name for path in (tmp_path / "phone").iterdir()] == ["phone.lock"]


def test_where_to_send_and_whose_it_is_must_be_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words, says in ((("send",), "--gateway"), (("send", "--edge", "http://e"), "--token-file")):
        assert main(["phone", *words, "--dir", str(tmp_path)]) == 2
        assert says in capsys.readouterr().err
