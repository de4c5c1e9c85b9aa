"""Starting and stopping servers that outlive this process (a world's own are started by its supervisor instead)."""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from infra.local.children import CHILD_ENVIRONMENT, tail
from infra.local.memory import tree_memory_mb
from infra.local.ports import is_port_free
from infra.local.servers.installing import check_disk
from infra.local.servers.kinds import LAUNCHES, ServerError
from infra.local.servers.plans import ServerPlan
from infra.local.servers.records import ServersRecord, StartedServer, began_ticks, is_running
from infra.plumbing.clock import Clock
from infra.plumbing.environment import environment_with
from infra.plumbing.files import write_atomically
from infra.plumbing.progress import Progress

START_TIMEOUT_S = 120.0
STOP_PATIENCE_S = 30.0
FORMAT_TIMEOUT_S = 60.0
AT_ONCE_MAX = 3
_POLL_S = 0.05


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerStatus:
    """One server now."""

    name: str
    kind: str
    address: str
    pid: int
    running: bool
    seconds: float | None
    """From its start until it took calls; None when that was not now."""
    rss_mb: float


def prepare_server(plan: ServerPlan) -> None:
    """Write its configuration, and what must be in its data folder before the first start.

    Raises:
        ServerError: the folder cannot be written, or the data cannot be formatted.
    """
    try:
        plan.folder.mkdir(parents=True, exist_ok=True)
        for path, content in plan.files.items():
            write_atomically(path, content)
    except OSError as error:
        raise ServerError(
            f"{plan.name} cannot be prepared in {plan.folder}: {error.strerror}.",
            fix="Make room, or name another --state.",
        ) from error
    if not plan.format_command or (plan.data / "meta.properties").exists():
        return
    try:
        done = subprocess.run(
            list(plan.format_command), capture_output=True, text=True, timeout=FORMAT_TIMEOUT_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ServerError(f"the data of {plan.name} cannot be formatted: {error}.") from error
    if done.returncode:
        raise ServerError(f"the data of {plan.name} cannot be formatted: {(done.stdout + done.stderr)[-500:]}")


def check_ports(plan: ServerPlan) -> None:
    """Refuse addresses that somebody else has.

    Raises:
        ServerError: says which port and how to see who has it.
    """
    for port in (plan.port, *plan.other_ports):
        if not is_port_free(plan.host, port):
            raise ServerError(
                f"{plan.host}:{port}, where {plan.name} is to listen, is taken by another process.",
                fix=f"`ss -ltnp 'sport = :{port}'` shows which; end it, or name another --state.",
            )


def check_settings(plan: ServerPlan) -> None:
    """Refuse to take a server that runs for the one that is asked for: without TLS, say, where TLS is.

    Raises:
        ServerError: it was started with other settings.
    """
    for path, content in plan.files.items():
        try:
            same = path.read_bytes() == content
        except OSError:
            same = False
        if not same:
            raise ServerError(
                f"{plan.name} runs with other settings than are asked for ({path.name}).",
                fix="`./atoll servers stop` ends it (with the same --state, if you named one); then start again.",
            )


def start_servers(
    plans: Sequence[ServerPlan], state: Path, *, clock: Clock, progress: Progress, timeout_s: float = START_TIMEOUT_S
) -> list[ServerStatus]:
    """Start what does not run yet, a few at a time, and wait until each takes calls.

    What a call that was killed had only just started is waited for, too. Whatever goes wrong, what this call started is
    stopped again; what ran before goes on.

    Raises:
        ServerError: a port is taken, the disk is full, a server runs with other settings, or did not come up (with its
            last words).
    """
    check_disk(state)
    with _alone(state):
        record = ServersRecord.load(state)
        running = {server.name: server for server in record.servers if is_running(server)}
        waiting = [plan for plan in plans if plan.name not in running]
        coming = []
        for plan in plans:
            if plan.name not in running:
                continue
            check_settings(plan)
            if not _is_up(plan, log_of(state, plan.name)):
                coming.append((plan, running[plan.name].pid))
        for plan in waiting:
            check_ports(plan)
            prepare_server(plan)
        seconds: dict[str, float] = {}
        started: list[StartedServer] = []
        try:
            for seen in _start_in_turn(waiting, coming, state, clock, timeout_s):
                if isinstance(seen, StartedServer):
                    started.append(seen)
                    record.servers = [*running.values(), *started]
                    record.save(state)
                else:
                    seconds[seen[0]] = seen[1]
                    progress.advance(len(seconds), len(waiting) + len(coming), "servers up")
        except BaseException:
            _end(started, clock)
            record.servers = list(running.values())
            record.save(state)
            raise
    return status_of(state, seconds=seconds)


def _start_in_turn(
    plans: Sequence[ServerPlan], coming: Sequence[tuple[ServerPlan, int]], state: Path, clock: Clock, timeout_s: float
) -> Iterator[StartedServer | tuple[str, float]]:
    """Yields each server when it is started, and its name and seconds when it takes calls.

    Those `coming` (with their process ids) were started before.
    """
    waiting = list(plans)
    starting = [(plan, pid, clock.monotonic_s()) for plan, pid in coming]
    while waiting or starting:
        while waiting and len(starting) < AT_ONCE_MAX:
            plan = waiting.pop(0)
            began_s = clock.monotonic_s()
            pid = _spawn(plan, log_of(state, plan.name))
            starting.append((plan, pid, began_s))
            yield StartedServer(
                name=plan.name, kind=plan.kind, region=plan.region, pid=pid,
                began_ticks=began_ticks(pid) or 0, address=plan.address, log=str(log_of(state, plan.name)),
                tls=plan.tls,
            )  # fmt: skip
        for entry in list(starting):
            plan, pid, began_s = entry
            if _is_up(plan, log_of(state, plan.name)):
                starting.remove(entry)
                yield plan.name, clock.monotonic_s() - began_s
            elif began_ticks(pid) is None or clock.monotonic_s() - began_s > timeout_s:
                raise ServerError(
                    f"{plan.name} did not start: {_last_words(log_of(state, plan.name))}",
                    fix=f"Its log is {log_of(state, plan.name)}.",
                )
        time.sleep(_POLL_S)


def _spawn(plan: ServerPlan, log: Path) -> int:
    """Start it in a session of its own: it outlives this process, and Ctrl-C here is not for it."""
    log.parent.mkdir(parents=True, exist_ok=True)
    # The last start's words make room for this one's.
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND | os.O_CLOEXEC, 0o644)
    try:
        return os.posix_spawn(
            plan.command[0], list(plan.command), environment_with(CHILD_ENVIRONMENT), setsid=True,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_DUP2, output, 1),
                (os.POSIX_SPAWN_DUP2, output, 2),
            ],
        )  # fmt: skip
    except OSError as error:
        raise ServerError(
            f"{plan.name} cannot be started: {error.strerror}.", fix="Run `./atoll servers install`."
        ) from error
    finally:
        os.close(output)


def _is_up(plan: ServerPlan, log: Path) -> bool:
    words = LAUNCHES[plan.kind].started
    if words:
        return words.encode() in log.read_bytes()
    with contextlib.suppress(OSError), socket.create_connection((plan.host, plan.port), timeout=1.0):
        return True
    return False


def _last_words(log: Path) -> str:
    return tail(log, lines=12) or "(it said nothing)"


def stop_servers(state: Path, *, clock: Clock) -> list[str]:
    """End what `start_servers` started here and still runs; returns the names. Nothing else is touched."""
    if not ServersRecord.path(state).exists():
        return []
    with _alone(state):
        record = ServersRecord.load(state)
        ended = _end([server for server in record.servers if is_running(server)], clock)
        record.servers = []
        record.save(state)
    return ended


def _end(servers: Sequence[StartedServer], clock: Clock) -> list[str]:
    for server in servers:
        _signal(server, signal.SIGTERM)
    left = _gone(servers, clock, STOP_PATIENCE_S)
    for server in left:
        _signal(server, signal.SIGKILL)
    left = _gone(left, clock, STOP_PATIENCE_S)
    if left:
        raise ServerError(f"{', '.join(server.name for server in left)} did not end at SIGKILL.")
    return [server.name for server in servers]


def _gone(servers: Sequence[StartedServer], clock: Clock, patience_s: float) -> list[StartedServer]:
    """Wait until they have ended; returns those that did not."""
    end_s = clock.monotonic_s() + patience_s
    left = list(servers)
    while left and clock.monotonic_s() < end_s:
        for server in left:  # a child of ours must be reaped to be gone
            with contextlib.suppress(ChildProcessError):
                os.waitpid(server.pid, os.WNOHANG)
        left = [server for server in left if is_running(server)]
        if left:
            time.sleep(_POLL_S)
    return left


def _signal(server: StartedServer, number: signal.Signals) -> None:
    if is_running(server):
        with contextlib.suppress(ProcessLookupError):
            os.kill(server.pid, number)


def status_of(state: Path, *, seconds: dict[str, float] | None = None) -> list[ServerStatus]:
    """Every recorded server."""
    known = seconds or {}
    found = []
    for server in ServersRecord.load(state).servers:
        running = is_running(server)
        memory_mb = round(tree_memory_mb(server.pid), 1) if running else 0.0
        found.append(
            ServerStatus(
                name=server.name, kind=server.kind.value, address=server.address, pid=server.pid, running=running,
                seconds=round(known[server.name], 2) if server.name in known else None, rss_mb=memory_mb,
            )
        )  # fmt: skip
    return found


def log_of(state: Path, name: str) -> Path:
    """What a server printed."""
    return state / "logs" / f"{name.replace('/', '.')}.out"


@contextlib.contextmanager
def _alone(state: Path) -> Iterator[None]:
    state.mkdir(parents=True, exist_ok=True)
    with (state / "servers.lock").open("ab") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ServerError(
                f"another process starts or stops the servers of {state}.", fix="Wait for it to end."
            ) from error
        yield
