"""Running one HTTP process: bind, say ready, drain on SIGTERM, exit with a code that tells the truth."""

import argparse
import asyncio
import errno
import signal
import ssl
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec
import uvloop
from aiohttp import web
from prometheus_client import Counter

from infra.plumbing.clock import SystemClock
from infra.plumbing.environment import restart_with
from infra.plumbing.errors import AtollError, SettingsError
from infra.plumbing.http.doors import keep_doors, tell_refused
from infra.plumbing.http.guarding import GuardedRunner, guard
from infra.plumbing.http.identity import Refused
from infra.plumbing.http.tls import ListenTls, listen_context
from infra.plumbing.settings import load_settings
from infra.plumbing.telemetry import Telemetry

S = TypeVar("S", bound=msgspec.Struct)
DRAIN_S = 2.0
"""How long requests in progress may take after SIGTERM."""


def run_process(main: Callable[[asyncio.Event], Awaitable[None]]) -> int:
    """Run `main` on uvloop until it returns; SIGTERM and SIGINT set the event it is given. Returns the exit code."""

    async def with_signals() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, stop.set)
        await main(stop)

    try:
        uvloop.run(with_signals())
    except AtollError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 0


def run_with_settings(
    module: str,
    settings_type: type[S],
    main: Callable[[S, asyncio.Event], Awaitable[None]],
    *,
    description: str,
    arguments: Sequence[str],
    environment: Callable[[S], Mapping[str, str]] = lambda _settings: {},
) -> int:
    """`python -m module --settings FILE`: read the settings, run `main` until SIGTERM; returns the exit code.

    2 stands for settings that cannot be used, or an address that is taken. `environment` names variables that the
    program must have been started with: where they are missing it is run anew, as the same process.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m {module}", description=description, epilog=f"example: python -m {module} --settings node.toml"
    )
    parser.add_argument(
        "--settings",
        type=Path,
        required=True,
        help=f"file (.toml or .json) with the fields of {settings_type.__name__}",
    )
    path: Path = parser.parse_args(arguments).settings

    async def run(stop: asyncio.Event) -> None:
        settings = load_settings(path, settings_type)
        restart_with(environment(settings))
        await main(settings, stop)

    return run_process(run)


async def serve(
    app: web.Application, *, host: str, port: int, stop: asyncio.Event, telemetry: Telemetry,
    make_runner: Callable[..., web.AppRunner] = GuardedRunner, tls: ListenTls | None = None,
    before_end: Callable[[], Awaitable[None]] | None = None, refused: Refused | None = None,
) -> None:  # fmt: skip
    """Serve `app` until `stop` is set, then drain.

    `make_runner` is for connections that are not aiohttp's own, `before_end` for what is done while it still answers,
    `refused` (made with `tell_refused`) for processes that listen elsewhere too.

    Raises:
        SettingsError: the address cannot be bound, or a TLS file cannot be used.
    """
    closed = Counter(
        "atoll_http_closed", "Connections closed: their sender was slow, silent or not to be understood.", ("why",),
        registry=telemetry.registry,
    )  # fmt: skip
    context = None
    if tls is not None:
        context = listen_context(tls, clock=SystemClock(), refused=refused or tell_refused(telemetry, SystemClock()))
        if tls.doors:
            app.middlewares.append(keep_doors(tls.doors))
    # Our own JSON logs and metrics take the place of an access log: a line per request halves throughput.
    runner = make_runner(app, access_log=None, shutdown_timeout=DRAIN_S, handle_signals=False)
    await runner.setup()
    beside = [asyncio.create_task(context.follow())] if context is not None else []
    if runner.server is not None:
        beside.append(asyncio.create_task(guard(runner.server, counted=lambda why: closed.labels(why).inc())))
    try:
        await listen(runner, host=host, port=port, context=None if context is None else context.context)
        telemetry.logger.info("listening", extra={"fields": {"host": host, "port": port}})
        await stop.wait()
        telemetry.logger.info("draining")
        if before_end is not None:
            await before_end()
    finally:
        for task in beside:
            task.cancel()
        await asyncio.gather(*beside, return_exceptions=True)
        await runner.cleanup()


async def listen(runner: web.BaseRunner, *, host: str, port: int, context: ssl.SSLContext | None = None) -> None:
    """Bind `runner` to an address, with TLS if there is a context.

    Raises:
        SettingsError: the port is in use or may not be bound.
    """
    site = web.TCPSite(runner, host, port, backlog=1024, ssl_context=context)
    try:
        await site.start()
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            raise SettingsError(
                f"port {port} on {host} is in use.", fix="Stop what uses it, or set another port in the settings."
            ) from error
        raise SettingsError(f"cannot listen on {host}:{port}: {error.strerror}.") from error
