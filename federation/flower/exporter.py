"""`/metrics` of Flower's processes, which have none of their own: a page beside them for as long as a run takes.

Started by the supervisor as `python -m federation.flower.exporter --watch PID --targets FILE`; it ends with it. The
port is a free one; FILE tells Prometheus (`file_sd_configs`) where it is.
"""

import argparse
import os
import signal
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from federation.flower.processes import descendants, die_with_parent
from federation.metrics_page import metrics_page

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_TICKS_S = os.sysconf("SC_CLK_TCK")
KINDS = ("superlink", "supernode", "superexec", "serverapp", "clientapp")


def kind_of(command: bytes) -> str:
    """Which of Flower's processes a command line is; `other` for what is none of them."""
    words = command.replace(b"\0", b" ").lower()
    return next((kind for kind in KINDS if kind.encode() in words), "other")


class FlowerProcesses(Collector):
    """Processes below `watch`, by kind: how many, how much memory, how much CPU.

    Args:
        watch: the supervisor's process id.
    """

    def __init__(self, watch: int) -> None:
        self._watch = watch

    def collect(self) -> Iterator[Metric]:
        """One look at /proc."""
        up: dict[str, int] = defaultdict(int, dict.fromkeys(KINDS[:2], 0))
        resident: dict[str, float] = defaultdict(float)
        cpu_s: dict[str, float] = defaultdict(float)
        for pid in descendants(self._watch):
            seen = None if pid == os.getpid() else _seen(pid)
            if seen is not None:
                kind, pages, ticks = seen
                up[kind] += 1
                resident[kind] += pages * _PAGE_BYTES
                cpu_s[kind] += ticks / _TICKS_S
        for name, says, values in (
            ("atoll_flower_processes", "Processes of this kind that run.", up),
            ("atoll_flower_resident_bytes", "Resident memory of all processes of this kind.", resident),
        ):
            family = GaugeMetricFamily(name, says, labels=("kind",))
            for kind, value in values.items():
                family.add_metric((kind,), value)
            yield family
        spent = CounterMetricFamily(
            "atoll_flower_cpu_seconds", "CPU of the processes of this kind that run now.", labels=("kind",)
        )
        for kind, seconds in cpu_s.items():
            spent.add_metric((kind,), seconds)
        yield spent


def _seen(pid: int) -> tuple[str, int, int] | None:
    """Kind, resident pages and CPU ticks of a process; None when it is gone."""
    try:
        process = Path(f"/proc/{pid}")
        pages = int((process / "statm").read_bytes().split()[1])
        # The name in parentheses may hold anything: fields count from behind its last `)`.
        fields = (process / "stat").read_bytes().rpartition(b")")[2].split()
        return kind_of((process / "cmdline").read_bytes()), pages, int(fields[11]) + int(fields[12])
    except (OSError, IndexError, ValueError):
        return None


def main(arguments: list[str]) -> int:
    """Serve the page until the supervisor ends."""
    parser = argparse.ArgumentParser(prog="python -m federation.flower.exporter", description=__doc__)
    parser.add_argument("--watch", type=int, required=True, help="process id of the supervisor, this one's parent")
    parser.add_argument("--targets", type=Path, required=True, help="file that tells Prometheus where the page is")
    given = parser.parse_args(arguments)
    die_with_parent(parent=given.watch)
    registry = CollectorRegistry()
    registry.register(FlowerProcesses(given.watch))
    with metrics_page(registry, targets_file=given.targets, process="flower"):
        signal.pause()  # until the kernel's signal: the supervisor has ended
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
