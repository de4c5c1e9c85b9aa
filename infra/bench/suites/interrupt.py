"""Ctrl-C at every act of the demo: it exits 130, shows no traceback and leaves no process behind.

The demo runs on a small made-up dataset, once for every act, and is interrupted when it says that the act begins.
Options: `acts` (names with commas between; all by default).
"""

import os
import signal
import subprocess
from pathlib import Path
from typing import NamedTuple

from infra.bench.catalogue import BenchRequest
from infra.bench.results import Measured, at_most
from infra.bench.ring import write_ring
from infra.local.tiers import source_root
from infra.plumbing.errors import InvalidInputError

ACTS = (
    "data", "train", "release", "evaluate", "world", "verify", "calls", "trace", "events", "vectors", "failover",
    "federated", "candidate", "tamper", "switch", "residency",
)  # fmt: skip
QUICK_ACTS = ("data", "world")
EXIT_INTERRUPTED = 130
STOP_PATIENCE_S = 60.0


class Interrupted(NamedTuple):
    """How a demo ended that got Ctrl-C at an act; `code` is None when it never came to that act."""

    code: int | None
    said: str
    left: tuple[str, ...]

    @property
    def clean(self) -> bool:
        """Whether it ended as it should."""
        return self.code == EXIT_INTERRUPTED and "Traceback" not in self.said and not self.left


def run(request: BenchRequest) -> Measured:
    """Interrupt one demo per act.

    Raises:
        InvalidInputError: an act that there is not.
    """
    acts = _acts(request)
    dataset = write_ring(request.work / "ring")
    unclean: dict[str, Interrupted] = {}
    for number, act in enumerate(acts, 1):
        ended = interrupt_at(act, dataset, request.work / act)
        if not ended.clean:
            unclean[act] = ended
        request.progress.advance(number, len(acts), "acts interrupted")
    left = sum(len(ended.left) for ended in unclean.values())
    return Measured(
        figures={"acts": len(acts), "unclean": len(unclean), "processes_left": left},
        bars=(
            at_most("acts that did not end cleanly", len(unclean), 0, unit="acts"),
            at_most("processes left behind", left, 0, unit="processes"),
        ),
        notes=tuple(f"{act}: exit {ended.code}, {ended.said[-200:]!r}" for act, ended in unclean.items()),
    )


def _acts(request: BenchRequest) -> tuple[str, ...]:
    named = request.options.get("acts")
    acts = tuple(named.split(",")) if named else QUICK_ACTS if request.quick else ACTS
    unknown = sorted(set(acts) - set(ACTS))
    if unknown:
        raise InvalidInputError(f"the demo has no act {unknown[0]!r}.", fix=f"Name some of {', '.join(ACTS)}.")
    return acts


def interrupt_at(act: str, dataset: Path, work: Path) -> Interrupted:
    """Start a demo in `work`, send it SIGINT when it says that `act` begins, and see how it ends."""
    command = [str(source_root() / "atoll"), "demo", "--data", str(dataset), "--work", str(work), "--tries", "2"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as demo:
        try:
            code, said = _stop_at(demo, act)
        finally:
            demo.kill()
    return Interrupted(code, said, tuple(processes_of(work)))


def _stop_at(demo: "subprocess.Popen[str]", act: str) -> tuple[int | None, str]:
    if demo.stderr is None:
        return None, ""
    seen = []
    for line in demo.stderr:
        seen.append(line)
        if line.strip() == act:
            demo.send_signal(signal.SIGINT)
            try:
                _, said = demo.communicate(timeout=STOP_PATIENCE_S)
            except subprocess.TimeoutExpired:
                return None, f"it goes on {STOP_PATIENCE_S:.0f} s after Ctrl-C"
            return demo.returncode, said
    return None, f"the demo ended before {act}: {''.join(seen[-20:])}"


def processes_of(work: Path) -> list[str]:
    """Command lines of processes that carry the demo's folder in their arguments or environment."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit() and int(process.name) != os.getpid():
            try:
                arguments, environment = (process / "cmdline").read_bytes(), (process / "environ").read_bytes()
            except OSError:
                continue
            if os.fsencode(work) in arguments + environment:
                found.append(f"{process.name} {arguments.decode(errors='replace')}")
    return found
