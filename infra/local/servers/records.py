"""Which servers were started here: `<state>/servers.json`, by process id and the moment the process began."""

from pathlib import Path

import msgspec

from infra.local.servers.kinds import ServerKind
from infra.plumbing.files import write_atomically


class StartedServer(msgspec.Struct, frozen=True, kw_only=True):
    """One started server. The moment tells it from a later process with the same number."""

    name: str
    kind: ServerKind
    region: str
    pid: int
    began_ticks: int
    """Field 22 of /proc/PID/stat: ticks since the machine's start."""
    address: str
    log: str
    tls: bool = False
    """Whether it is called over mutual TLS only."""


class Timings(msgspec.Struct, kw_only=True):
    """How long starts took; kept over stops."""

    cold_s: float | None = None
    """From nothing on disk: making archives, folders and data, and the first start. Downloads are not counted."""
    warm_s: float | None = None
    archive_s: float = 0.0
    """What making the class archives took, the last time that it was done."""


class ServersRecord(msgspec.Struct, kw_only=True):
    """`servers.json`."""

    servers: list[StartedServer] = []
    timings: Timings = msgspec.field(default_factory=Timings)

    @staticmethod
    def path(state: Path) -> Path:
        """Where the record of a state lies."""
        return state / "servers.json"

    @classmethod
    def load(cls, state: Path) -> "ServersRecord":
        """The record, or an empty one where nothing was started or the file is not whole."""
        try:
            return msgspec.json.decode(cls.path(state).read_bytes(), type=cls)
        except (OSError, msgspec.DecodeError):
            return cls()

    def save(self, state: Path) -> None:
        """Write it."""
        write_atomically(self.path(state), msgspec.json.format(msgspec.json.encode(self)))


def began_ticks(pid: int) -> int | None:
    """When a process began; None when there is none of that number, or it has ended and waits to be reaped."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:
        return None
    return None if fields[0] == b"Z" else int(fields[19])


def is_running(server: StartedServer) -> bool:
    """Whether that very process still runs."""
    return began_ticks(server.pid) == server.began_ticks
