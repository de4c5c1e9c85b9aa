"""The ClientApp: thin. It hands the plan to its region's gateway and brings back what the gateway gives away.

Flower starts it once per message in its own process, so nothing heavy is imported here. It is the only code of a run
that Flower carries into a region, and the key it holds opens rounds at the gateway and nothing else.
"""

import json
import ssl
import time
import urllib.error
import urllib.request
from pathlib import Path

from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.clientapp import ClientApp

from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.http.tls import ClientTls, client_context
from infra.plumbing.private_files import read_private

PLAN = "plan"
RESULT = "result"
BODY = "json"
_WAIT_S = 20.0
_ROUND_S_MAX = 300.0
_RETRY_S = 0.3

app = ClientApp()


@app.train()  # type: ignore[untyped-decorator]
def train(message: Message, context: Context) -> Message:
    """Open the round at the gateway, wait for its end, answer with the regional sum (JSON of `RegionalSum`)."""
    clock = SystemClock()
    gateway = _deployed(context, clock) if "gateway" in context.node_config else _simulated(context)
    body = gateway.run_round(message.content[PLAN][BODY], timeout_s=_ROUND_S_MAX, clock=clock)
    return Message(content=RecordDict({RESULT: ConfigRecord({BODY: body})}), reply_to=message)


def _deployed(context: Context, clock: Clock) -> "Gateway":
    """The gateway that this SuperNode was started for."""
    config, tls = context.node_config, None
    if authority := str(config.get("gateway-ca", "")):
        names = tuple(filter(None, str(config["gateway-names"]).split(",")))
        shown = ClientTls(
            ca_file=authority, certificate_file=str(config["certificate"]), key_file=str(config["key"]),
            server_names=names,
        )  # fmt: skip
        tls = client_context(shown, clock=clock).context
    return Gateway(url=str(config["gateway"]), round_key_file=Path(str(config["round-key-file"])), tls=tls)


def _simulated(context: Context) -> "Gateway":
    """The gateway of the region that a simulated SuperNode stands for: it has a number from 0 and nothing else."""
    regions = json.loads(Path(str(context.run_config["plan"])).read_bytes())["regions"]
    link = regions[sorted(regions)[int(str(context.node_config["partition-id"]))]]
    return Gateway(url=link["gateway_url"], round_key_file=Path(link["round_key_file"]))


class Gateway:
    """The two calls a SuperNode may make."""

    def __init__(self, *, url: str, round_key_file: Path, tls: ssl.SSLContext | None = None) -> None:
        self._url = url.rstrip("/")
        self._tls = tls
        self._key = read_private(round_key_file).decode().strip()

    def run_round(self, plan: bytes, *, timeout_s: float, clock: Clock) -> bytes:
        """Open the round in `plan` (JSON of `RoundPlan`) and wait until it has ended.

        Raises:
            TimeoutError: it did not end within `timeout_s`.
            urllib.error.URLError: the gateway refused, or does not answer.
        """
        ends_s = clock.monotonic_s() + timeout_s
        round_id = json.loads(plan)["round_id"]
        path, body = "/v1/rounds", plan
        while True:
            standing = self._patient_call(path, body, ends_s, clock)
            if json.loads(standing)["phase"] in ("closed", "void"):
                return standing
            if clock.monotonic_s() > ends_s:
                raise TimeoutError("the gateway's round did not end in time")
            path, body = f"/v1/rounds/{round_id}?wait_s={_WAIT_S}", b""

    def _patient_call(self, path: str, body: bytes, ends_s: float, clock: Clock) -> bytes:
        """A gateway that is away for a moment (killed and started again) is asked again; it knows its rounds."""
        while True:
            try:
                return self._call("POST" if body else "GET", path, body or None)
            except (ConnectionError, urllib.error.URLError) as error:
                away = isinstance(getattr(error, "reason", error), ConnectionError)
                if not away or clock.monotonic_s() > ends_s:
                    raise
                time.sleep(_RETRY_S)

    def _call(self, method: str, path: str, body: bytes | None) -> bytes:
        headers = {"Authorization": f"Bearer {self._key}", "Content-Type": "application/json"}
        request = urllib.request.Request(self._url + path, data=body, headers=headers, method=method)  # noqa: S310
        try:
            with urllib.request.urlopen(request, timeout=_WAIT_S + 10.0, context=self._tls) as answer:  # noqa: S310
                return bytes(answer.read())
        except urllib.error.HTTPError as error:
            detail = error.read(2000).decode(errors="replace")
            raise urllib.error.URLError(f"the gateway answered {error.code}: {detail}") from error
