"""What the small processes of this room have in common: read settings, start telemetry, run until told to stop."""

import argparse
import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

import msgspec

from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import SettingsError
from infra.plumbing.http.serving import run_process
from infra.plumbing.settings import load_settings
from infra.plumbing.telemetry import Telemetry, TelemetrySettings, start_telemetry

S = TypeVar("S", bound=msgspec.Struct)


def run_with_settings(
    service: str,
    settings_type: type[S],
    main: Callable[[S, asyncio.Event, Telemetry, Clock], Awaitable[None]],
    *,
    arguments: list[str] | None = None,
) -> int:
    """Run one process from `--settings FILE`; returns its exit code. `settings_type` has a field `telemetry`."""
    parser = argparse.ArgumentParser(prog=f"python -m infra.local.{service}")
    parser.add_argument("--settings", type=Path, required=True, help="JSON or TOML file")
    file = parser.parse_args(arguments).settings

    async def run(stop: asyncio.Event) -> None:
        settings = load_settings(file, settings_type)
        telemetry_settings = getattr(settings, "telemetry", None)
        if not isinstance(telemetry_settings, TelemetrySettings):
            raise SettingsError(f"{settings_type.__name__} has no telemetry settings.")
        telemetry = start_telemetry(service=service, region="", node=service, settings=telemetry_settings)
        try:
            await main(settings, stop, telemetry, SystemClock())
        finally:
            telemetry.close()

    return run_process(run)
