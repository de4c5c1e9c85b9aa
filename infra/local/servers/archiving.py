"""Class archives: each server is started once and ended, and writes down the classes it used (JEP 350)."""

import shutil
from collections.abc import Sequence

from infra.local.servers.installing import Home
from infra.local.servers.kinds import ServerKind
from infra.local.servers.plans import ServerInput, archive_draft, plan_servers
from infra.local.servers.running import start_servers, stop_servers
from infra.plumbing.clock import Clock
from infra.plumbing.progress import Progress


def make_archives(home: Home, *, java: str, clock: Clock, progress: Progress) -> Sequence[ServerKind]:
    """Write the archives that are missing; returns which.

    What a call that was killed left running has a place that is known, and is ended first.

    Raises:
        ServerError: a server did not start; its last words are in the error.
    """
    missing = frozenset(kind for kind in ServerKind if not home.archive(kind).is_file())
    if not missing:
        return ()
    state = home.folder / "archiving"
    stop_servers(state, clock=clock)
    given = ServerInput(home=home, state=state, regions=("first",), java=java, kinds=missing, write_archives=True)
    try:
        start_servers(plan_servers(given), state, clock=clock, progress=progress)
    finally:
        stop_servers(state, clock=clock)
    shutil.rmtree(state, ignore_errors=True)
    for kind in missing:
        draft = archive_draft(home, kind)
        if draft.is_file():
            draft.replace(home.archive(kind))
    return tuple(sorted(missing))
