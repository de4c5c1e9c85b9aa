"""A key service for tests: the transit calls of Vault over loopback, with versions, tokens, errors and sealing."""

import base64
import json
import secrets
import ssl
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from infra.plumbing.private_files import write_private

TOKEN = "hvs.test"
KEY = "us-east"


class TransitServer:
    """Serves until it is closed. `sealed`, `token` and `least` (min_decryption_version) may be changed meanwhile."""

    def __init__(self, folder: Path, *, tls: ssl.SSLContext | None = None) -> None:
        self.versions: list[AESGCM] = []
        self.rotate()
        self.sealed, self.token, self.least, self.garbled = False, TOKEN, 1, False
        self.calls: Counter[str] = Counter()
        self.token_file = folder / "token"
        write_private(self.token_file, f"{TOKEN}\n".encode())
        self._port = 0
        self._tls = tls
        self.start()

    @property
    def url(self) -> str:
        """Where it is."""
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._port}"

    def start(self) -> None:
        """Listen, at the port of before if there was one."""
        outer, self.stopped = self, False

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                self._answer(json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))) or b"{}"))

            def do_GET(self) -> None:
                self._answer({})

            def _answer(self, body: dict[str, Any]) -> None:
                if outer.stopped:  # a connection of before
                    self.close_connection = True
                    return
                status, document = outer.handle(self.command, self.path, self.headers.get("X-Vault-Token"), body)
                content = b"<html>" if outer.garbled else json.dumps(document).encode()
                self.send_response(status)
                if status != 204:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if status != 204:
                    self.wfile.write(content)

            def log_message(self, *_words: object) -> None:
                """Say nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", self._port), Handler)
        self._server.daemon_threads = True
        self._port = self._server.server_address[1]
        if self._tls is not None:
            self._server.socket = self._tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """Nobody answers any more."""
        self.stopped = True
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def rotate(self) -> None:
        """A new version."""
        self.versions.append(AESGCM(secrets.token_bytes(32)))

    def handle(self, method: str, path: str, token: str | None, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """What the service says; errors as Vault words them."""
        parts = path.removeprefix("/v1/").split("/")
        self.calls[parts[1] if len(parts) > 1 else ""] += 1
        if self.sealed:
            return 503, {"errors": ["Vault is sealed"]}
        if token != self.token:
            return 403, {"errors": ["permission denied"]}
        if parts[0] != "transit" or len(parts) < 3 or parts[2] != KEY:
            return 404, {"errors": []}
        match method, parts[1], parts[3:]:
            case "POST", "encrypt", []:
                return 200, {"data": {"ciphertext": self._sealed(base64.b64decode(body["plaintext"]))}}
            case "POST", "decrypt", []:
                return self._decrypted(body["ciphertext"])
            case "GET", "keys", []:
                latest = len(self.versions)
                return 200, {"data": {"latest_version": latest, "min_decryption_version": self.least, "name": KEY}}
            case "POST", "keys", ["rotate"]:
                self.rotate()
                return 204, {}
        return 405, {"errors": ["unsupported operation"]}

    def _sealed(self, plaintext: bytes) -> str:
        nonce = secrets.token_bytes(12)
        sealed = nonce + self.versions[-1].encrypt(nonce, plaintext, None)
        return f"vault:v{len(self.versions)}:{base64.b64encode(sealed).decode()}"

    def _decrypted(self, ciphertext: str) -> tuple[int, dict[str, Any]]:
        try:
            prefix, version, sealed = ciphertext.split(":")
            number, raw = int(version.removeprefix("v")), base64.b64decode(sealed, validate=True)
            if prefix != "vault":
                raise ValueError(prefix)
        except ValueError:
            return 400, {"errors": ["invalid ciphertext: no prefix"]}
        if number < self.least:
            return 400, {"errors": ["ciphertext or signature version is disallowed by policy (too old)"]}
        try:
            plaintext = self.versions[number - 1].decrypt(raw[:12], raw[12:], None)
        except (InvalidTag, IndexError, ValueError):
            return 400, {"errors": ["cipher: message authentication failed"]}
        return 200, {"data": {"plaintext": base64.b64encode(plaintext).decode()}}
