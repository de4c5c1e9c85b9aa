"""A real edge process in front of a made-up region, and the tokens of its callers."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from edge.settings import EdgeSettings
from infra.bench.serving.processes import HOST, Cores, Server, free_port, running
from infra.local.tiers import source_root, tier_python
from infra.plumbing.clock import Clock
from infra.plumbing.keys import RegionKeys, TrustDirectory
from infra.plumbing.telemetry import TelemetrySettings
from infra.plumbing.tokens import issue_token

TOKEN_LIFE_S = 4 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class Bed:
    """Where a measurement's processes run."""

    work: Path
    environments: Path
    cores: Cores
    clock: Clock
    keys: RegionKeys

    def tokens(self, count: int) -> list[str]:
        """Tokens of `count` users of the region."""
        return [
            issue_token(self.keys, f"user-{number}", clock=self.clock, life_s=TOKEN_LIFE_S) for number in range(count)
        ]


def make_bed(work: Path, environments: Path, clock: Clock) -> Bed:
    """A bed with fresh keys."""
    keys = RegionKeys.generate("here")
    keys.save(work / "keys.json")
    TrustDirectory.of([keys]).save(work / "trust.json")
    (work / "root.json").write_bytes(b"{}")
    return Bed(work=work, environments=environments, cores=Cores.of_this_machine(), clock=clock, keys=keys)


@contextlib.contextmanager
def running_region(bed: Bed) -> Iterator[Server]:
    """The made-up region, on the load's core: it works while caches are filled and not afterwards."""
    port = free_port()
    command = [tier_python("bench", bed.environments), "-m", "infra.bench.serving.region", str(port)]
    with running(
        "region", command, port=port, core=bed.cores.load, log=bed.work / "region.log", clock=bed.clock,
        cwd=source_root(),
    ) as server:  # fmt: skip
        yield server


@contextlib.contextmanager
def running_edge(bed: Bed, region: Server, *, name: str = "edge", **changes: object) -> Iterator[Server]:
    """A real edge of the edge tier with everything on: tokens, limits, metrics, sampled spans and log lines.

    The limits are high enough for a load that comes from few callers; they are counted all the same.
    """
    port = free_port()
    fields: Mapping[str, object] = {
        "node": name, "region": "here", "host": HOST, "port": port, "state_directory": str(bed.work / name),
        "home_urls": (region.base,), "away_urls": {}, "repository_url": "http://127.0.0.1:9",
        "trusted_root": str(bed.work / "root.json"), "keys_file": str(bed.work / "keys.json"),
        "trust_file": str(bed.work / "trust.json"), "grid": "memory", "lists_poll_s": 3600.0,
        "cache_bytes_max": 256 << 20, "deadline_ms": 5000, "fill_deadline_ms": 5000, "try_timeout_ms": 5000,
        "requests_per_caller_s": 100_000.0, "burst_per_caller": 100_000.0, "requests_per_address_s": 1_000_000.0,
        "burst_per_address": 1_000_000.0,
        "telemetry": TelemetrySettings(
            log_file=str(bed.work / f"{name}.log"), spans_file=str(bed.work / f"{name}.spans")
        ),
        **changes,
    }  # fmt: skip
    path = bed.work / f"{name}.json"
    path.write_bytes(msgspec.json.encode(msgspec.convert(fields, EdgeSettings, str_keys=True)))
    command = [tier_python("edge", bed.environments), "-m", "edge", "--settings", str(path)]
    with running(
        name, command, port=port, core=bed.cores.server, log=bed.work / f"{name}.out", clock=bed.clock,
        cwd=source_root(),
    ) as server:  # fmt: skip
        yield server
