"""A steady background of requests by wrk: many connections, each of which pauses between its requests."""

import contextlib
import json
import re
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from infra.bench.serving.open_load import Call
from infra.local.packages import ensure_debian_package
from infra.plumbing.errors import UnavailableError

LASTS_AT_MOST_S = 900
DOWN_WITHIN_S = 10.0
_SCRIPT = """
local requests = {}
for line in io.lines("%(requests)s") do
  requests[#requests + 1] = line:gsub("~", "\\r\\n")
end
local at = 0
function delay() return math.random(0, %(pause_ms)d) end
function request()
  at = at %% #requests + 1
  return requests[at]
end
function done(summary, latency, rates)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format(
    'RESULT {"requests":%%d,"duration_us":%%d,"failed":%%d,"refused":%%d,"p50_us":%%d,"p99_us":%%d}\\n',
    summary.requests, summary.duration, bad, summary.errors.status, latency:percentile(50), latency:percentile(99)))
end
"""


@dataclass
class Background:
    """What the load came to; filled in when it has ended."""

    seen: dict[str, float] = field(default_factory=dict)

    @property
    def rps(self) -> float:
        """Answers a second: what a slow server kept from being asked shows here."""
        return self.seen["requests"] / (self.seen["duration_us"] / 1e6)


@contextlib.contextmanager
def steady_load(base_url: str, calls: Sequence[Call], *, rate_per_s: int, work: Path) -> Iterator[Background]:
    """`calls` in turn at about `rate_per_s` until the block ends: one connection for each request a second.

    A connection waits a random time of one second on average before each request, so that requests come as
    irregularly as from many callers; what an answer takes comes on top.

    Raises:
        UnavailableError: wrk failed.
    """
    program = ensure_debian_package("wrk")
    folder = Path(tempfile.mkdtemp(prefix="load-", dir=work))
    (folder / "requests").write_text("\n".join(_line(call) for call in calls) + "\n")
    (folder / "load.lua").write_text(_SCRIPT % {"requests": folder / "requests", "pause_ms": 2000})
    command = [
        program, "-t1", f"-c{rate_per_s}", f"-d{LASTS_AT_MOST_S}s", "--timeout", "10s", "--latency",
        "-s", str(folder / "load.lua"), base_url,
    ]  # fmt: skip
    background = Background()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        yield background
    finally:
        output, errors = _ended(process)
    found = re.search(r"RESULT (\{.*\})", output)
    if found is None:
        raise UnavailableError(f"the background load failed: {(errors or output)[-500:]}")
    background.seen.update(json.loads(found.group(1)))


def _ended(process: "subprocess.Popen[str]") -> tuple[str, str]:
    """Its last words; wrk sums up when it is interrupted."""
    process.send_signal(signal.SIGINT)
    try:
        return process.communicate(timeout=DOWN_WITHIN_S)
    except subprocess.TimeoutExpired:
        process.kill()
        return process.communicate()


def _line(call: Call) -> str:
    headers = [f"{name}: {value}" for name, value in {"Host": "127.0.0.1", **call.headers}.items()]
    return "~".join((f"GET {call.path} HTTP/1.1", *headers, "", ""))
