"""Where everything of a world lies.

::

    <state>/world.json              what runs where: ports, processes (the supervisor starts from it)
    <state>/root.json               the TUF root that the regions trust, copied when the world was made
    <state>/trust.json              public keys of every region
    <state>/wan.json, balancer.json, repository.json, haproxy.cfg    settings of the shared processes
    <state>/world-identity          by which servers that outlive the world know it (`world up --servers`)
    <state>/clocks/                 offsets of wall clocks, in a world with `clock_faults`
    <state>/tls/                    certificates of a world with TLS, each with its key (0600)
    <state>/federation/             federated runs: logs, ledger, outcome
    <state>/federation/standing/    homes and credentials of a standing SuperLink and its SuperNodes
    <state>/<region>/keys.json      the region's secrets (0600)
    <state>/<region>/rules-signing.pem   signs the region's rules (0600), once made by `./atoll rules key`
    <state>/<region>/region.json, edge-1.json, ..., gateway.json     settings of its processes
    <state>/<region>/core/, edge-1/, ..., gateway/                   their own state
    <state>/logs/<process>.log      JSON logs; `.out` beside it holds what was printed
    <state>/spans/<process>.jsonl   kept spans
    <state>/capture/<from>--<to>.bin    every byte between two regions, or a region and central
    <state>/run/                    sockets and locks; moved to a short folder when the path would be too long
"""

import hashlib
import stat
import tempfile
from dataclasses import dataclass
from pathlib import Path

from infra.plumbing.errors import AtollError

SOCKET_PATH_BYTES_MAX = 107
"""`sun_path` of Linux holds 108 bytes with the terminating zero (unix(7))."""
_SOCKET_NAME_BYTES_MAX = 40


class StateDirectoryError(AtollError):
    """The state directory, or the folder for its sockets, cannot be used."""


@dataclass(frozen=True, slots=True)
class Layout:
    """Paths inside one state directory; `state` must be absolute."""

    state: Path

    @property
    def mark(self) -> str:
        """Names this world in the environment of its processes: 16 hex digits of the state's path."""
        return hashlib.sha256(str(self.state).encode()).hexdigest()[:16]

    @property
    def run(self) -> Path:
        """Folder of sockets and locks, short enough for Unix sockets."""
        inside = self.state / "run"
        if len(str(inside).encode()) + 1 + _SOCKET_NAME_BYTES_MAX <= SOCKET_PATH_BYTES_MAX:
            return inside
        return Path(tempfile.gettempdir()) / f"atoll-{self.mark}"

    @property
    def world(self) -> Path:
        """The record that the supervisor starts from."""
        return self.state / "world.json"

    @property
    def root(self) -> Path:
        """The trusted TUF root."""
        return self.state / "root.json"

    @property
    def trust(self) -> Path:
        """Public keys of every region."""
        return self.state / "trust.json"

    @property
    def tls(self) -> Path:
        """Certificates, in a world that has some."""
        return self.state / "tls"

    @property
    def flower(self) -> Path:
        """Homes and credentials of a SuperLink and SuperNodes that stand; made anew at each start of the world."""
        return self.state / "federation" / "standing"

    @property
    def clocks(self) -> Path:
        """How far the processes' wall clocks are off, in a world whose clocks can be stepped."""
        return self.state / "clocks"

    @property
    def haproxy(self) -> Path:
        """The socket by which HAProxy takes commands."""
        return self.run / "haproxy"

    @property
    def control(self) -> Path:
        """The supervisor's socket."""
        return self.run / "control"

    @property
    def lock(self) -> Path:
        """Held by the supervisor as long as it lives."""
        return self.run / "supervisor.lock"

    @property
    def starting(self) -> Path:
        """Held by a client while it starts or stops the world."""
        return self.state / "starting.lock"

    @property
    def wan_control(self) -> Path:
        """The link proxies' socket."""
        return self.run / "wan"

    @property
    def logs(self) -> Path:
        """Logs of all processes."""
        return self.state / "logs"

    @property
    def spans(self) -> Path:
        """Spans of all processes."""
        return self.state / "spans"

    @property
    def capture(self) -> Path:
        """Captured bytes of all links."""
        return self.state / "capture"

    def settings(self, name: str) -> Path:
        """Settings file of a shared process."""
        return self.state / f"{name}.json"

    def region(self, region: str) -> Path:
        """Folder of a region."""
        return self.state / region

    def keys(self, region: str) -> Path:
        """Secrets of a region."""
        return self.region(region) / "keys.json"

    def gateway_keys(self, region: str) -> Path:
        """What the region's device gateway holds of them."""
        return self.region(region) / "gateway-keys.json"

    def signing_key(self, region: str) -> Path:
        """The key that signs a region's rules, once it was made. No process of the world reads it."""
        return self.region(region) / "rules-signing.pem"

    def service_keys(self, region: str) -> Path:
        """Keys of the services that call a region's edges; there once the first was made."""
        return self.region(region) / "service-keys.json"

    def grid(self, region: str) -> Path:
        """Socket of a region's embedded grid."""
        return self.run / f"{region}.grid"

    def log(self, process: str) -> Path:
        """JSON log of a process, by its name (`us-east/edge-1`)."""
        return self.logs / f"{process.replace('/', '.')}.log"

    def output(self, process: str) -> Path:
        """What a process printed."""
        return self.logs / f"{process.replace('/', '.')}.out"

    def spans_of(self, process: str) -> Path:
        """Spans of a process."""
        return self.spans / f"{process.replace('/', '.')}.jsonl"

    def create(self) -> None:
        """Make the folders; the one of the sockets is ours alone.

        Raises:
            StateDirectoryError: a folder cannot be made, or belongs to somebody else.
        """
        try:
            for folder in (self.state, self.logs, self.spans, self.capture):
                folder.mkdir(parents=True, exist_ok=True)
            self.run.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.run.chmod(0o700)
        except OSError as error:
            raise StateDirectoryError(
                f"cannot use {error.filename} for the world's state: {error.strerror}.",
                fix="Name another state directory, or make room on the disk.",
            ) from error
        mode = self.run.lstat().st_mode
        if stat.S_ISLNK(mode):
            raise StateDirectoryError(f"{self.run} is a link.", fix="Remove it.")


def layout_of(state: Path) -> Layout:
    """The layout of a state directory, by its absolute path."""
    return Layout(state.resolve())
