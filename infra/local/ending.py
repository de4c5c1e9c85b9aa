"""Ending a world so that nothing of it is left, also when its supervisor hangs or was killed."""

import contextlib
import os
import shutil
import signal
import time
from pathlib import Path

from infra.local.children import marked_processes
from infra.local.control import ControlUnavailableError, call_control
from infra.local.layout import Layout, layout_of
from infra.local.supervisor import wait_unlocked
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.errors import AtollError

DOWN_TIMEOUT_S = 20.0
CONTROL_DOWN_S = 5.0
_CLOCK = SystemClock()


class LeftoversError(AtollError):
    """Processes of the world could not be ended."""


def stop_world(state: Path, *, clock: Clock = _CLOCK) -> int:
    """End the world at `state`, also one whose supervisor was killed; returns how many leftovers were ended.

    Nothing is left running, and sockets and locks are gone. A world that does not run is no error.

    Raises:
        LeftoversError: something could not be ended.
    """
    layout = layout_of(state)
    if not layout.state.is_dir():
        return 0
    return end_world(layout, clock)


def end_world(layout: Layout, clock: Clock) -> int:
    """`stop_world` of a state directory that exists."""
    with contextlib.suppress(ControlUnavailableError):
        call_control(layout.control, {"command": "down"}, timeout_s=CONTROL_DOWN_S)
    # A supervisor that hangs is one of the marked processes: the sweep ends it.
    wait_unlocked(layout.lock, timeout_s=DOWN_TIMEOUT_S, clock=clock)
    return sweep(layout, clock)


def sweep(layout: Layout, clock: Clock) -> int:
    """End processes that carry the world's mark and remove its sockets; returns how many were ended."""
    leftovers = marked_processes(layout.mark)
    ended = set(leftovers)
    end_s = clock.monotonic_s() + DOWN_TIMEOUT_S
    while leftovers:
        for pid in leftovers:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if clock.monotonic_s() >= end_s:
            raise LeftoversError(f"processes {leftovers} of the world do not end.", fix="End them by hand.")
        time.sleep(0.02)
        leftovers = marked_processes(layout.mark)
        ended.update(leftovers)
    shutil.rmtree(layout.run, ignore_errors=True)
    return len(ended)
