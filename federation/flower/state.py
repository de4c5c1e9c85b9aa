"""What a run leaves on disk while it goes on, so that a killed ServerApp goes on where it was."""

import hashlib
from pathlib import Path
from typing import Self

import msgspec

from federation.flower.plan import RunPlan
from federation.messages import RoundPlan
from federation.rounds.outcome import RoundOutcome
from infra.plumbing.files import write_atomically

RUN_STATE_FILE = "run-state.json"


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """Rounds that are done, the shared part after them, and the round that was asked for and is not done."""

    plan_digest: str
    rounds: tuple[RoundOutcome, ...] = ()
    core: bytes = b""
    momentum: bytes = b""
    reads: bytes = b""
    """What phones' towers read in the present stage."""
    pending: RoundPlan | None = None

    @classmethod
    def fresh(cls, digest: str) -> Self:
        """Nothing done yet."""
        return cls(plan_digest=digest)

    def waiting_for(self, plan: RoundPlan) -> Self:
        """The same, with `plan` under way."""
        return msgspec.structs.replace(self, pending=plan)

    def after(self, outcome: RoundOutcome, *, core: bytes, momentum: bytes) -> Self:
        """The same, with one round more."""
        return msgspec.structs.replace(
            self, rounds=(*self.rounds, outcome), core=core, momentum=momentum, pending=None
        )  # fmt: skip


class StateFile:
    """The state of the run of `plan` in a directory; a file of another plan's run is not read."""

    def __init__(self, directory: Path, plan: RunPlan) -> None:
        self._path = directory / RUN_STATE_FILE
        self.digest = hashlib.sha256(msgspec.json.encode(plan)).hexdigest()

    def read(self) -> RunState | None:
        """The state, if a run of this plan was broken off."""
        try:
            state = msgspec.json.decode(self._path.read_bytes(), type=RunState)
        except (OSError, msgspec.DecodeError):
            return None
        return state if state.plan_digest == self.digest else None

    def write(self, state: RunState) -> RunState:
        """Write durably; returns `state`."""
        write_atomically(self._path, msgspec.json.encode(state), mode=0o600)
        return state

    def remove(self) -> None:
        """The run has an outcome."""
        self._path.unlink(missing_ok=True)
