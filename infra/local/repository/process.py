"""The release repository over HTTP: `metadata/` and `targets/`, ranges and conditional requests included."""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from infra.local.running import LocalSettings
from infra.plumbing.clock import Clock
from infra.plumbing.errors import NotFoundError, SettingsError
from infra.plumbing.http.middleware import frame, operations_routes
from infra.plumbing.http.serving import serve
from infra.plumbing.http.tls import ListenTls
from infra.plumbing.telemetry import Telemetry

SERVED = ("metadata", "targets")
_IMMUTABLE = "public, max-age=31536000, immutable"
_VOLATILE = "no-cache"


class RepositorySettings(LocalSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file."""

    host: str = "127.0.0.1"
    port: int
    tls: ListenTls | None = None
    directory: str
    """Holds `metadata/` and `targets/`; nothing else in it is served."""


def build_app(settings: RepositorySettings, *, telemetry: Telemetry, clock: Clock) -> web.Application:
    """The application.

    Raises:
        SettingsError: the directory is not a repository.
    """
    base = Path(settings.directory).resolve()
    if not (base / "metadata").is_dir():
        raise SettingsError(
            f"{base} is not a release repository: it has no metadata folder.",
            fix="Publish a release first: `./atoll release publish`.",
        )
    app = web.Application(middlewares=[frame(telemetry, clock)])
    app.add_routes(operations_routes(telemetry, lambda: None))
    for top in SERVED:
        app.router.add_get(f"/{top}/{{path:.+}}", _file_handler(base / top), allow_head=True)
    return app


def _file_handler(folder: Path) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def give(request: web.Request) -> web.StreamResponse:
        path = await asyncio.to_thread(find_file, folder, request.match_info["path"])
        # Names carry a version or a hash and keep their content for ever, all but the timestamp.
        volatile = path.name == "timestamp.json"
        return web.FileResponse(path, headers={"Cache-Control": _VOLATILE if volatile else _IMMUTABLE})

    return give


def find_file(folder: Path, name: str) -> Path:
    """The file `name` inside `folder`.

    Raises:
        NotFoundError: there is none, or the name leads out of the folder.
    """
    try:
        path = (folder / name).resolve()
        inside = path.is_relative_to(folder.resolve()) and path.is_file()
    except (OSError, ValueError):
        inside = False
    if not inside or path.name.startswith("."):
        raise NotFoundError("the repository has no such file.")
    return path


async def run_repository(
    settings: RepositorySettings, *, stop: asyncio.Event, telemetry: Telemetry, clock: Clock
) -> None:
    """Serve until `stop` is set.

    Raises:
        SettingsError: the directory is not a repository, or the port is taken.
    """
    app = build_app(settings, telemetry=telemetry, clock=clock)
    await serve(app, host=settings.host, port=settings.port, stop=stop, telemetry=telemetry, tls=settings.tls)
