"""What the small processes of this room have in common: telemetry around what they do."""

import asyncio
import sys
from collections.abc import Awaitable, Callable, Sequence
from typing import TypeVar

import msgspec

from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.http.serving import run_with_settings
from infra.plumbing.telemetry import Telemetry, TelemetrySettings, start_telemetry


class LocalSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of a process of this room say where its telemetry goes."""

    telemetry: TelemetrySettings = TelemetrySettings()


S = TypeVar("S", bound=LocalSettings)


def run_local(
    service: str,
    settings_type: type[S],
    main: Callable[[S, asyncio.Event, Telemetry, Clock], Awaitable[None]],
    *,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run one process from `--settings FILE` with its telemetry; returns its exit code."""

    async def run(settings: S, stop: asyncio.Event) -> None:
        telemetry = start_telemetry(service=service, region="", node=service, settings=settings.telemetry)
        try:
            await main(settings, stop, telemetry, SystemClock())
        finally:
            telemetry.close()

    return run_with_settings(
        f"infra.local.{service}",
        settings_type,
        run,
        description=f"Run the {service} of a local world.",
        arguments=sys.argv[1:] if arguments is None else arguments,
    )
