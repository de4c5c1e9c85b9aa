"""Load by wrk, with requests that vary: keys, users and header lines are drawn anew for each request of a long list."""

import json
import re
import resource
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from infra.bench.serving.processes import HOST, Cores, Server
from infra.local.packages import ensure_debian_package
from infra.plumbing.errors import UnavailableError

SCRIPT = """
local requests = {}
for line in io.lines("%(requests)s") do
  requests[#requests + 1] = line:gsub("~", "\\r\\n")
end
local at = 0
local threads = 0
function setup(thread) thread:set("skip", threads * 7919); threads = threads + 1 end
function init(args) at = skip %% #requests end
function request()
  at = at %% #requests + 1
  return requests[at]
end
%(delay)sfunction done(summary, latency, rates)
  local bad = summary.errors.connect + summary.errors.read + summary.errors.write + summary.errors.timeout
  io.write(string.format(
    'RESULT {"requests":%%d,"duration_us":%%d,"failed":%%d,"refused":%%d,"p50_us":%%d,"p99_us":%%d}\\n',
    summary.requests, summary.duration, bad, summary.errors.status, latency:percentile(50), latency:percentile(99)))
end
"""
DELAY = "function delay() return %d end\n"
_AGENTS = tuple(
    f"Mozilla/5.0 (Linux; Android {android}; {phone}) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/{chrome}.0 Mobile"
    for android in (12, 13, 14, 15)
    for phone in ("Pixel 7", "Pixel 8", "SM-S911B", "SM-A546B", "22101316G")
    for chrome in (118, 122, 126, 129, 131)
)
_LANGUAGES = ("en-US,en;q=0.9", "de-DE,de;q=0.9,en;q=0.8", "fr-FR,fr;q=0.9", "ja-JP,ja;q=0.9", "pt-BR,pt;q=0.9")
_ENCODINGS = ("gzip, deflate, br", "gzip, deflate", "br, gzip", "identity")


@dataclass(frozen=True, slots=True, kw_only=True)
class Loaded:
    """What one run of wrk saw, and what the server spent on it.

    rps: requests a second.
    cpu_us: user and system time of the server per request, in microseconds.
    load_busy: share of its core that wrk itself took. Near 1 it is wrk that bounds `rps`, not the server.
    """

    rps: float
    cpu_us: float
    p50_ms: float
    p99_ms: float
    requests: int
    refused: int
    load_busy: float


@dataclass(frozen=True, slots=True)
class Caller:
    """A user's token, and the tag of the list that the user has already (empty: none)."""

    token: str
    tag: str = ""


def write_requests(
    path: Path,
    callers: Sequence[Caller],
    *,
    target: Callable[[int], str],
    count: int,
    seed: int,
    conditional: bool = False,
) -> None:
    """`count` requests of random `callers` for `target(number)`, one a line (`~` is CRLF), headers as phones send them.

    Every user keeps a device (agent, language, encoding); users take turns on a connection, as behind a balancer, so
    that no two requests on it are alike.
    """
    rng = np.random.default_rng(seed)
    devices = [tuple(kind[int(rng.integers(len(kind)))] for kind in (_AGENTS, _LANGUAGES, _ENCODINGS)) for _ in callers]
    with path.open("w") as file:
        for number in range(count):
            place = int(rng.integers(len(callers)))
            agent, language, encoding = devices[place]
            lines = [
                f"Host: {HOST}", f"User-Agent: {agent}", "Accept: application/json", f"Accept-Language: {language}",
                f"Accept-Encoding: {encoding}", f"Authorization: Bearer {callers[place].token}",
                "X-Forwarded-For: 10.{}.{}.{}".format(*rng.integers(1, 255, size=3)),
            ]  # fmt: skip
            if conditional:
                lines.append(f"If-None-Match: {callers[place].tag}")
            file.write("~".join((f"GET {target(number)} HTTP/1.1", *lines, "", "")) + "\n")


def load(
    server: Server, requests: Path, *, connections: int, duration_s: float, cores: Cores, work: Path, pause_ms: int = 0
) -> Loaded:  # fmt: skip
    """Run wrk against `server` for `duration_s` seconds on the load's core.

    `pause_ms`: how long each connection waits between an answer and its next request, so that a server is given a load
    below what it could do.

    Raises:
        UnavailableError: wrk failed, or an answer was neither 2xx nor 3xx.
    """
    program = ensure_debian_package("wrk")
    script = work / "load.lua"
    script.write_text(SCRIPT % {"requests": requests, "delay": DELAY % pause_ms if pause_ms else ""})
    before_s, load_before_s = server.cpu_s(), _children_cpu_s()
    command = [
        "taskset", "-c", str(cores.load), program, "-t1", f"-c{connections}", f"-d{max(1, round(duration_s))}s",
        "--timeout", "10s", "--latency", "-s", str(script), server.base,
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=duration_s + 60)
    spent_s, load_s = server.cpu_s() - before_s, _children_cpu_s() - load_before_s
    found = re.search(r"RESULT (\{.*\})", done.stdout)
    if found is None:
        raise UnavailableError(f"wrk failed against {server.name}: {(done.stderr or done.stdout)[-500:]}")
    seen = json.loads(found.group(1))
    if seen["failed"] or seen["refused"] or not seen["requests"]:
        raise UnavailableError(f"{server.name} did not answer all requests: {seen}")
    return Loaded(
        rps=seen["requests"] / (seen["duration_us"] / 1e6), cpu_us=spent_s / seen["requests"] * 1e6,
        p50_ms=seen["p50_us"] / 1000, p99_ms=seen["p99_us"] / 1000, requests=seen["requests"],
        refused=seen["refused"], load_busy=load_s / (seen["duration_us"] / 1e6),
    )  # fmt: skip


def _children_cpu_s() -> float:
    """User and system time of this process's children that have ended, in seconds."""
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
