"""The façade that the command line and the demo use: start a world, look at it, hurt it, heal it, end it.

Everything here is synchronous and may be called from any thread. A world that `start_world` started ends with the
process that started it, unless `World.detach` was called.
"""

import contextlib
import ssl
import time
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

import msgspec

from infra.local.children import tail
from infra.local.clocks import clock_file, set_clock_offset
from infra.local.configuration import CENTRAL, CENTRAL_FLOWER, WorldConfiguration, validate_configuration
from infra.local.control import ControlUnavailableError, call_control
from infra.local.ending import LeftoversError, end_world, stop_world, sweep
from infra.local.layout import Layout, layout_of
from infra.local.leash import Leash, start_supervisor, starting
from infra.local.planning import link_name
from infra.local.preparing import Seeding, prepare_world, seed_regions
from infra.local.records import Part, ProcessState, ProcessStatus, WorldRecord, WorldStatus
from infra.local.rotating import Rotation, rotate
from infra.local.scraping import FEDERATION_TARGETS, scrape
from infra.local.securing import OPERATOR, Securing, supernode_of
from infra.local.succeeding import drop_old_authority, succeed
from infra.local.supervisor import is_locked, read_record
from infra.local.wan.shaping import LinkShape
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import AtollError, ConflictError, InvalidInputError
from infra.plumbing.http.tls import ClientTls, client_context
from infra.plumbing.keys import RegionKeys
from infra.plumbing.progress import Progress, SilentProgress

__all__ = [
    "LeftoversError",
    "WaitFor",
    "World",
    "WorldNotReadyError",
    "open_world",
    "start_record",
    "start_world",
    "stop_world",
]

WaitFor = Literal["ready", "live"]
POLL_S = 0.1
SUPERVISOR_START_S = 15.0
RESTART_S = 20.0
_SILENT = SilentProgress()
_CLOCK = SystemClock()


class WorldNotReadyError(AtollError):
    """The world did not come up; says which processes did not, and their last words."""


class World:
    """A running world. Get one from `start_world` or `open_world`."""

    def __init__(self, *, layout: Layout, record: WorldRecord, leash: Leash | None = None) -> None:
        self._layout = layout
        self._record = record
        self._leash = leash

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.down()

    @property
    def state(self) -> Path:
        """The state directory."""
        return self._layout.state

    @property
    def layout(self) -> Layout:
        """Where its files lie."""
        return self._layout

    @property
    def configuration(self) -> WorldConfiguration:
        """As it was started."""
        return self._record.configuration

    @property
    def ports(self) -> dict[str, int]:
        """Port of every listener, by name (`balancer`, `us-east/edge-1`, `us-east--us-west`, ...)."""
        return dict(self._record.ports)

    @property
    def balancer_url(self) -> str:
        """Where applications call."""
        return self._url("balancer")

    @property
    def repository_url(self) -> str:
        """Central's release repository, without a link in between."""
        return self._url("repository")

    def region_url(self, region: str) -> str:
        """The region's API."""
        return self._url(f"{self.configuration.region(region).name}/api")

    def gateway_url(self, region: str) -> str:
        """The region's device gateway."""
        return self._url(f"{self.configuration.region(region).name}/gateway")

    def edge_urls(self, region: str) -> tuple[str, ...]:
        """The region's edges."""
        count = self.configuration.region(region).edges
        return tuple(self._url(f"{region}/edge-{number}") for number in range(1, count + 1))

    def link_address(self, origin: str, destination: str = CENTRAL_FLOWER) -> str:
        """`host:port` at which `origin` reaches `destination` through their link."""
        name = link_name(origin, destination)
        if name not in self._record.ports:
            raise InvalidInputError(f"there is no link {name}.", fix="Name two regions, or a region and central.")
        return f"{self.configuration.host}:{self._record.ports[name]}"

    def _url(self, name: str) -> str:
        return f"{self._securing.scheme}://{self.configuration.host}:{self._record.ports[name]}"

    @property
    def _securing(self) -> Securing:
        return Securing(self._layout.tls, self.configuration.tls)

    @property
    def operator_tls(self) -> ClientTls | None:
        """What the operator shows, who may call every process of a world with TLS; None: it has none."""
        return self._securing.connect(OPERATOR)

    @property
    def caller_tls(self) -> ClientTls | None:
        """Whom applications and phones trust; they show nothing."""
        return self._securing.trusting()

    def supernode_tls(self, region: str) -> ClientTls | None:
        """What the region's SuperNode shows to its gateway."""
        return self._securing.connect(supernode_of(region), f"{region}/gateway")

    def ssl_context(self) -> ssl.SSLContext | None:
        """The operator's `ssl.SSLContext`, as the certificate is now; None in a world without TLS."""
        tls = self.operator_tls
        return None if tls is None else client_context(tls, clock=_CLOCK).context

    def operator_door(self, region: str) -> tuple[str, str, ClientTls | None]:
        """What the commands of `region.releases.commands` want first: address, operator key, TLS."""
        return self.region_url(region), self.keys(region).operator_key, self.operator_tls

    def keys(self, region: str) -> RegionKeys:
        """The region's secrets: for playing its token issuer and its operator."""
        return RegionKeys.load(self._layout.keys(self.configuration.region(region).name))

    def status(self) -> WorldStatus:
        """Everything now.

        Raises:
            ControlUnavailableError: the supervisor is gone.
        """
        return msgspec.convert(self._call({"command": "status"}), WorldStatus)

    def rss_mb(self) -> float:
        """Memory of all processes now, in MiB (proportional shares, where the kernel tells them)."""
        return self.status().rss_mb

    def peak_rss_mb(self) -> float:
        """The largest `rss_mb` since the start, looked at once a second."""
        return self.status().peak_rss_mb

    def kill(self, region: str, part: str = "all") -> list[str]:
        """SIGKILL a region's processes (`KILLABLE` names the parts); they stay down. Returns their names."""
        killed: list[str] = self._call({"command": "kill", "region": region, "part": part})
        return killed

    def restart(self, process: str) -> list[str]:
        """Let one process, by its name, drain, end and start again; returns when it has ended, see `wait`."""
        ended: list[str] = self._call({"command": "restart", "process": process}, timeout_s=RESTART_S)
        return ended

    def heal(self, region: str, part: str = "all") -> list[str]:
        """Start what was killed or given up, on the same ports; returns the names at once, see `wait`."""
        healed: list[str] = self._call({"command": "heal", "region": region, "part": part})
        if self.configuration.federation and any(name.endswith("/supernode") for name in healed):
            # A round that brought its own SuperLink and was killed has left the link aimed there.
            self.aim_link(region, self.ports[Part.SUPERLINK], host=self.configuration.host)
        return healed

    def wait(
        self,
        *,
        timeout_s: float | None = None,
        wait_for: WaitFor = "ready",
        region: str = "",
        progress: Progress = _SILENT,
        clock: Clock = _CLOCK,
    ) -> WorldStatus:
        """Wait until everything that was not killed (of `region`, if named) is ready, or at least answers.

        Raises:
            WorldNotReadyError: it does not come up in time, or a process crashes again and again.
        """
        limit_s = self.configuration.start_timeout_s if timeout_s is None else timeout_s
        end_s = clock.monotonic_s() + limit_s
        good = {ProcessState.READY} if wait_for == "ready" else {ProcessState.READY, ProcessState.LIVE}
        while True:
            status = self.status()
            watched = [
                process
                for process in status.processes
                if process.state is not ProcessState.KILLED and region in ("", process.region or CENTRAL)
            ]
            bad = [process for process in watched if process.state not in good]
            progress.advance(len(watched) - len(bad), len(watched), f"processes {wait_for}")
            if not bad:
                return status
            if clock.monotonic_s() >= end_s or any(process.state is ProcessState.GAVE_UP for process in bad):
                raise self._not_ready(bad, wait_for)
            time.sleep(POLL_S)

    def _not_ready(self, bad: list[ProcessStatus], wait_for: WaitFor) -> WorldNotReadyError:
        worst = min(bad, key=lambda process: process.state is not ProcessState.GAVE_UP)
        names = "; ".join(f"{process.name} is {process.state} ({process.detail})" for process in bad[:8])
        words = tail(self._layout.output(worst.name)) or tail(self._layout.log(worst.name))
        return WorldNotReadyError(
            f"{len(bad)} processes are not {wait_for}: {names}. Last words of {worst.name}: {words or '(none)'}",
            fix=f"Logs lie in {self._layout.logs}.",
        )

    def step_clocks(self, names: Iterable[str], seconds: float) -> None:
        """Let the wall clocks of processes, by name, be off by `seconds`; 0 puts them right.

        Raises:
            InvalidInputError: this world's clocks cannot be stepped, or there is no such process in a region.
        """
        for name in names:
            file = clock_file(self._layout.clocks, name)
            if not self.configuration.clock_faults or not file.exists():
                raise InvalidInputError(f"the clock of {name} cannot be stepped.", fix="Set clock_faults in the world.")
            set_clock_offset(file, seconds)

    def shape_link(self, origin: str, destination: str, shape: LinkShape) -> list[str]:
        """Disturb links (`*` stands for all origins or destinations); returns their names."""
        request = {"command": "shape", "origin": origin, "destination": destination}
        changed: list[str] = self._call_wan({**request, **msgspec.to_builtins(shape)})
        return changed

    def aim_link(self, origin: str, port: int, *, destination: str = CENTRAL_FLOWER, host: str = "127.0.0.1") -> None:
        """Tell a link where its destination is; Flower's SuperLink is not known before it starts."""
        self._call_wan({"command": "aim", "origin": origin, "destination": destination, "host": host, "port": port})

    def links(self) -> list[dict[str, Any]]:
        """Shape and counters of every link."""
        links: list[dict[str, Any]] = self._call_wan({"command": "status"})
        return links

    def captures(self) -> dict[str, bytes]:
        """What crossed every link until now: capture file contents by link name."""
        self._call_wan({"command": "flush"})
        return {path.stem: path.read_bytes() for path in sorted(self._layout.capture.glob("*.bin"))}

    def metrics(self) -> dict[str, str]:
        """The text of `/metrics` of every process that answers, by its name; a region's retrieval processes too."""
        return scrape(self.status().processes, self._layout.state / FEDERATION_TARGETS, self.ssl_context())

    def rotate_certificates(self, *, progress: Progress = _SILENT, clock: Clock = _CLOCK) -> Rotation:
        """New certificates for every process, taken over while they run; see `infra.local.rotating.rotate`."""
        return rotate(self._record, self._layout, self.status().processes, clock=clock, progress=progress)

    def succeed_authority(self, *, progress: Progress = _SILENT, clock: Clock = _CLOCK) -> Rotation:
        """Another authority beside the old one, and everybody's certificates by it; see `infra.local.succeeding`."""
        return succeed(self._record, self._layout, self.status().processes, clock=clock, progress=progress)

    def drop_old_authority(self, *, clock: Clock = _CLOCK) -> None:
        """Trust the new authority only; see `infra.local.succeeding`."""
        drop_old_authority(self._record, self._layout, clock=clock)

    def detach(self) -> None:
        """Let the world outlive this process."""
        if self._leash:
            self._leash.detach()

    def down(self) -> None:
        """End everything.

        Raises:
            LeftoversError: something could not be ended.
        """
        stop_world(self._layout.state)
        if self._leash:
            self._leash.reap()

    def _call(self, request: dict[str, Any], timeout_s: float = 10.0) -> Any:
        return call_control(self._layout.control, request, timeout_s=timeout_s)

    def _call_wan(self, request: dict[str, Any]) -> Any:
        return call_control(self._layout.wan_control, request)


def start_world(
    configuration: WorldConfiguration,
    state: Path,
    *,
    repository: Path,
    dataset: Path | None = None,
    hold_out_last: bool = False,
    progress: Progress = _SILENT,
    wait_for: WaitFor = "ready",
    clock: Clock = _CLOCK,
) -> World:
    """Prepare, seed, start, and wait until everything is up. Whatever goes wrong, nothing is left running.

    Args:
        configuration: see `infra.local.configuration`.
        state: the state directory; made if missing, its keys, ports and stores are used again.
        repository: the release repository (`metadata/`, `targets/`).
        dataset: a plain dataset folder to fill the regions' stores from.
        hold_out_last: keep everybody's last event out of the stores.
        progress: told what is ready.
        wait_for: `ready`, or `live` where no release is published yet that the regions could activate.
        clock: for deadlines.

    Raises:
        ConflictError: this world runs already, or belongs to another repository or dataset.
        WorldConfigurationError: the configuration cannot be used.
        WorldNotReadyError: not everything came up.
    """
    validate_configuration(configuration)
    layout = layout_of(state)
    layout.create()
    with starting(layout):
        if is_locked(layout.lock):
            raise ConflictError(
                f"the world at {layout.state} runs already.",
                fix="See `./atoll world status`; end it with `./atoll world down`.",
            )
        sweep(layout, clock)
        layout.create()
        try:
            record = prepare_world(configuration, layout, repository=repository)
            if dataset is not None:
                seeding = Seeding(dataset=dataset, hold_out_last=hold_out_last)
                seed_regions(record, layout, seeding, progress=progress, clock=clock)
        except BaseException:
            sweep(layout, clock)
            raise
        return start_record(record, layout, wait_for=wait_for, progress=progress, clock=clock)


def start_record(
    record: WorldRecord, layout: Layout, *, wait_for: WaitFor = "ready", progress: Progress = _SILENT,
    clock: Clock = _CLOCK,
) -> World:  # fmt: skip
    """Start what was prepared and wait until it is up; whatever goes wrong, Ctrl-C included, nothing is left running.

    Raises:
        WorldNotReadyError: not everything came up.
    """
    leash = start_supervisor(layout, record)
    try:
        _await_supervisor(layout, leash, clock)
        world = World(layout=layout, record=record, leash=leash)
        world.wait(wait_for=wait_for, progress=progress, clock=clock)
    except BaseException:
        end_world(layout, clock)
        leash.reap()
        raise
    return world


def open_world(state: Path) -> World:
    """The world that runs at `state`.

    Raises:
        InvalidInputError: there is no world at `state`.
        ControlUnavailableError: it does not run.
    """
    layout = layout_of(state)
    world = World(layout=layout, record=read_record(layout))
    world.status()
    return world


def _await_supervisor(layout: Layout, leash: Leash, clock: Clock) -> None:
    end_s = clock.monotonic_s() + SUPERVISOR_START_S
    while clock.monotonic_s() < end_s and leash.alive():
        with contextlib.suppress(ControlUnavailableError):
            call_control(layout.control, {"command": "status"})
            return
        time.sleep(0.02)
    raise WorldNotReadyError(
        f"the supervisor did not start: {tail(layout.output('supervisor'))}", fix=f"See {layout.logs}."
    )
