"""Several workers that share every step of the towers' training (`tf.distribute`, MultiWorkerMirrored).

Who is in the team stands in `TF_CONFIG`, as TensorFlow reads it on a cluster; `./atoll train --workers N` starts such a
team on this machine. All read the same dataset folder, draw the same batches under the same seed, and take each their
rows of every batch; gradients are summed over the network. The first one also trains the ranker and writes the model.
"""

import contextlib
import json
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass
from typing import Any, Final

from central.training.windows import WindowBatch
from infra.plumbing.environment import environment_with, variable
from infra.plumbing.errors import AtollError, InvalidInputError

TF_CONFIG: Final = "TF_CONFIG"
WORKERS_MAX: Final = 64
HOST: Final = "127.0.0.1"
LAST_WORDS_BYTES: Final = 2000
POLL_S: Final = 0.2


class TeamFailedError(AtollError):
    """A worker of a local team ended before the training did."""


@dataclass(frozen=True, slots=True)
class Team:
    """`index`: of this process, 0 the first. `strategy`: TensorFlow's, made before anything else is computed."""

    index: int
    size: int
    strategy: Any


def place_in_team() -> tuple[int, int] | None:
    """This process's index and the size of its team, as TF_CONFIG says; None where it works alone.

    Raises:
        InvalidInputError: TF_CONFIG is there and does not name a team of workers.
    """
    text = variable(TF_CONFIG)
    if text is None:
        return None
    try:
        config = json.loads(text)
        workers, task = config["cluster"]["worker"], config["task"]
        index, size = int(task["index"]), len(workers)
        good = set(config["cluster"]) == {"worker"} and task["type"] == "worker" and 0 <= index < size <= WORKERS_MAX
    except (ValueError, KeyError, TypeError):
        good, index, size = False, 0, 0
    if not good:
        raise InvalidInputError(
            f"{TF_CONFIG} does not name a team of workers.",
            fix='It must say {"cluster": {"worker": ["host:port", ...]}, "task": {"type": "worker", "index": 0}}.',
        )
    return (index, size) if size > 1 else None


def join_team() -> Team | None:
    """Meet the other workers; waits until all are there. Must come before TensorFlow has computed anything.

    Raises:
        InvalidInputError: as `place_in_team`.
    """
    place = place_in_team()
    if place is None:
        return None
    from central.training.runtime import tf  # noqa: PLC0415 (only a process that trains needs it)

    return Team(*place, strategy=tf.distribute.MultiWorkerMirroredStrategy())


def scope_of(team: Team | None) -> AbstractContextManager[Any]:
    """Where variables are made that all workers share."""
    return contextlib.nullcontext() if team is None else team.strategy.scope()


def part_of(batch: WindowBatch, team: Team) -> WindowBatch:
    """This worker's rows of a batch, as many as every other's."""
    own = slice(team.index, None, team.size)
    return WindowBatch(**{name: column[own] for name, column in batch._asdict().items()})


def run_local_team(command: Sequence[str], size: int) -> None:
    """Run `command` in `size` processes on this machine that make a team; the first one speaks for all.

    Raises:
        TeamFailedError: one of them failed; the others were ended.
    """
    addresses = [f"{HOST}:{port}" for port in _free_ports(size)]
    with ExitStack() as stack:
        files = [stack.enter_context(tempfile.TemporaryFile()) for _ in range(size)]
        running: list[subprocess.Popen[bytes]] = []
        stack.callback(_end, running)
        for index in range(size):
            task = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
            quiet = {} if index == 0 else {"stdout": files[index], "stderr": files[index]}
            environment = environment_with({TF_CONFIG: json.dumps(task)})
            running.append(subprocess.Popen(list(command), env=environment, **quiet))  # type: ignore[call-overload]
        _await(running, files)


def _await(running: list[subprocess.Popen[bytes]], files: Sequence[Any]) -> None:
    while True:
        codes = [process.poll() for process in running]
        failed = next((index for index, code in enumerate(codes) if code), None)
        if failed is not None:
            raise TeamFailedError(
                f"worker {failed} ended with {codes[failed]}. {_last_words(files[failed])}".rstrip(),
                fix="The others were ended; give the same command again to go on from the last epoch.",
            )
        if all(code == 0 for code in codes):
            return
        with contextlib.suppress(subprocess.TimeoutExpired):
            next(process for process, code in zip(running, codes, strict=True) if code is None).wait(timeout=POLL_S)


def _last_words(file: Any) -> str:
    end = file.seek(0, 2)
    file.seek(max(0, end - LAST_WORDS_BYTES))
    words: str = file.read().decode(errors="replace").strip()
    return words


def _end(running: Sequence[subprocess.Popen[bytes]]) -> None:
    for process in running:
        if process.poll() is None:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    """Ports that are free now; held together, so that they are different."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind((HOST, 0))
        return [int(one.getsockname()[1]) for one in sockets]
