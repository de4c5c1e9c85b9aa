"""`python -m federation.phones --settings FILE`: simulated phones; SIGTERM ends the rounds and writes the report."""

import argparse
import asyncio
import sys
from pathlib import Path

import msgspec

from federation.device.tower import load_device_release
from federation.metrics_page import metrics_page
from federation.phones.metrics import phones_registry
from federation.phones.simulator import Simulator
from federation.settings import PhonesSettings
from infra.plumbing.clock import SystemClock
from infra.plumbing.files import write_atomically
from infra.plumbing.http.serving import run_process
from infra.plumbing.settings import load_settings


def main() -> int:
    """Take part until SIGTERM, SIGINT or the end of patience; then report."""
    parser = argparse.ArgumentParser(prog="python -m federation.phones", description=__doc__)
    parser.add_argument("--settings", type=Path, required=True, help="PhonesSettings, .toml or .json")
    path = parser.parse_args().settings

    async def run(stop: asyncio.Event) -> None:
        settings = load_settings(path, PhonesSettings)
        release = load_device_release(Path(settings.release_directory))
        simulator = Simulator(settings, release=release, clock=SystemClock())
        targets = Path(settings.targets_file) if settings.targets_file else None
        registry = phones_registry(phones=simulator.size, counts=simulator.counts)
        try:
            with metrics_page(registry, targets_file=targets, process="phones"):
                await simulator.run(stop)
            report = msgspec.json.encode(simulator.report())
        finally:
            simulator.close()
        if settings.report_file:
            write_atomically(Path(settings.report_file), report)
        print(report.decode())

    return run_process(run)


if __name__ == "__main__":
    sys.exit(main())
