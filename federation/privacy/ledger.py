"""The privacy ledger: what was spent, in an append-only file of JSON lines chained by SHA-256.

Rules:
* The first line fixes the population, delta and the budget; nobody can open the same ledger with another budget.
* A round is *reserved* before any region is asked, and settled afterwards as *spent* or *void*. What was reserved and
  never settled counts as spent: a killed server cannot win its budget back.
* Every line holds the digest of the line before it; the newest digest is kept in a second file too, so that lines
  cut off at the end are noticed.
"""

import enum
import fcntl
import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec

from federation.privacy.accountant import Release, epsilon
from infra.contracts.residency import Global, GlobalMessage
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError
from infra.plumbing.files import write_atomically

_GENESIS = "0" * 64
_LINES_MAX = 100_000


class LedgerError(AtollError):
    """The ledger does not hold, or is used for something that it was not opened for."""


class PrivacyBudgetSpentError(AtollError):
    """The next round would exceed the budget: training stops."""


class EntryKind(enum.StrEnum):
    """What a line says."""

    OPENED = "opened"
    RESERVED = "reserved"
    SPENT = "spent"
    VOID = "void"


class LedgerEntry(GlobalMessage, frozen=True, kw_only=True):
    """One line. `epsilon` and `epsilon_released` are totals after this line; None stands for infinite.

    `epsilon` holds towards central, which sees every region's noised sum; `epsilon_released` towards those who see the
    trained model only, which carries the noise of all regions of a round.
    """

    index: Global[int]
    previous: Global[str]
    at_ms: Global[int]
    kind: Global[EntryKind]
    population: Global[str]
    delta: Global[float]
    epsilon_max: Global[float]
    round_id: Global[str] = ""
    noise_multiplier: Global[float] = 0.0
    sampling_probability: Global[float] = 1.0
    regions: Global[int] = 0
    epsilon: Global[float | None] = 0.0
    epsilon_released: Global[float | None] = 0.0
    digest: Global[str] = ""


class _Head(msgspec.Struct, frozen=True):
    lines: int
    digest: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """How much one population may spend in all."""

    population: str
    epsilon_max: float
    delta: float


def entry_digest(entry: LedgerEntry) -> str:
    """SHA-256 of the entry without its digest, canonical JSON; `previous` is inside, so entries chain."""
    bare = msgspec.structs.replace(entry, digest="")
    return hashlib.sha256(msgspec.json.encode(bare, order="sorted")).hexdigest()


def verify_entries(entries: Sequence[LedgerEntry]) -> None:
    """Check numbers, chain and order of a ledger.

    Raises:
        LedgerError: names the first line that does not hold.
    """
    previous = _GENESIS
    open_rounds: set[str] = set()
    known_rounds: set[str] = set()
    for index, entry in enumerate(entries):
        if entry.index != index or entry.previous != previous or entry.digest != entry_digest(entry):
            raise LedgerError(
                f"line {index + 1} of the privacy ledger was changed, moved or removed.",
                fix="Restore the ledger from a copy; do not train on until it verifies.",
            )
        if (entry.kind is EntryKind.OPENED) != (index == 0):
            raise LedgerError(f"line {index + 1} of the privacy ledger opens it at the wrong place.")
        if entry.kind is EntryKind.RESERVED:
            if entry.round_id in known_rounds:
                raise LedgerError(f"line {index + 1} reserves round {entry.round_id} a second time.")
            open_rounds.add(entry.round_id)
            known_rounds.add(entry.round_id)
        elif entry.kind in (EntryKind.SPENT, EntryKind.VOID):
            if entry.round_id not in open_rounds:
                raise LedgerError(f"line {index + 1} settles round {entry.round_id}, which is not reserved.")
            open_rounds.discard(entry.round_id)
        previous = entry.digest


def spent_rounds(entries: Sequence[LedgerEntry]) -> dict[str, LedgerEntry]:
    """What counts: every reserved round that was not settled as void, its latest line by round id."""
    rounds: dict[str, LedgerEntry] = {}
    for entry in entries:
        if entry.kind in (EntryKind.RESERVED, EntryKind.SPENT):
            rounds[entry.round_id] = entry
        elif entry.kind is EntryKind.VOID:
            rounds.pop(entry.round_id, None)
    return rounds


def totals(rounds: Sequence[LedgerEntry], *, delta: float) -> tuple[float, float]:
    """(epsilon towards central, epsilon of the released model) of these rounds together."""
    central = [Release(entry.noise_multiplier, entry.sampling_probability) for entry in rounds]
    # A reserved round may still come back from one region only, so it is booked with one region's noise.
    released = [
        Release(
            entry.noise_multiplier * (max(entry.regions, 1) if entry.kind is EntryKind.SPENT else 1) ** 0.5,
            entry.sampling_probability,
        )
        for entry in rounds
    ]
    return epsilon(central, delta=delta), epsilon(released, delta=delta)


class Ledger:
    """One population's ledger file. Several processes may hold it; each write locks, reads and verifies first."""

    def __init__(self, path: Path, *, budget: Budget, clock: Clock) -> None:
        self._path = path
        self._budget = budget
        self._clock = clock

    def entries(self) -> tuple[LedgerEntry, ...]:
        """All lines, verified.

        Raises:
            LedgerError: the ledger does not verify.
        """
        return read_ledger(self._path)

    def reserve(self, round_id: str, *, noise_multiplier: float, sampling_probability: float = 1.0) -> LedgerEntry:
        """Book a round before it starts.

        Raises:
            PrivacyBudgetSpentError: the total would exceed the budget; nothing is written.
            LedgerError: the ledger does not verify, belongs to another budget, or knows this round already.
        """
        wanted = self._draft(
            EntryKind.RESERVED, round_id, noise_multiplier=noise_multiplier, sampling_probability=sampling_probability
        )

        def extend(entries: tuple[LedgerEntry, ...]) -> LedgerEntry:
            if any(entry.round_id == round_id for entry in entries):
                raise LedgerError(f"round {round_id} is in the privacy ledger already.")
            entry = self._with_totals(wanted, entries)
            if entry.epsilon is None or entry.epsilon > self._budget.epsilon_max:
                raise PrivacyBudgetSpentError(
                    f"the next round would take epsilon of {self._budget.population} to "
                    f"{'infinity' if entry.epsilon is None else format(entry.epsilon, '.3f')}, above the budget of "
                    f"{self._budget.epsilon_max:.3f}.",
                    fix="Training on this population ends here; more noise per round would have lasted longer.",
                )
            return entry

        return self._append(extend)

    def settle(self, round_id: str, *, regions: int) -> LedgerEntry:
        """Say how a reserved round ended: with the sums of so many regions; none means void, and books nothing.

        Raises:
            LedgerError: the round is not reserved, or was settled before.
        """

        def extend(entries: tuple[LedgerEntry, ...]) -> LedgerEntry:
            kinds = [entry.kind for entry in entries if entry.round_id == round_id]
            if kinds != [EntryKind.RESERVED]:
                raise LedgerError(f"round {round_id} is not waiting to be settled.")
            reserved = next(entry for entry in entries if entry.round_id == round_id)
            draft = self._draft(
                EntryKind.SPENT if regions else EntryKind.VOID, round_id, noise_multiplier=reserved.noise_multiplier,
                sampling_probability=reserved.sampling_probability, regions=regions,
            )  # fmt: skip
            return self._with_totals(draft, entries)

        return self._append(extend)

    def _draft(
        self, kind: EntryKind, round_id: str = "", *, noise_multiplier: float = 0.0, sampling_probability: float = 1.0,
        regions: int = 0,
    ) -> LedgerEntry:  # fmt: skip
        return LedgerEntry(
            index=0, previous=_GENESIS, at_ms=self._clock.now_ms(), kind=kind, population=self._budget.population,
            delta=self._budget.delta, epsilon_max=self._budget.epsilon_max, round_id=round_id,
            noise_multiplier=noise_multiplier, sampling_probability=sampling_probability, regions=regions,
        )  # fmt: skip

    def _with_totals(self, draft: LedgerEntry, entries: tuple[LedgerEntry, ...]) -> LedgerEntry:
        rounds = list(spent_rounds((*entries, draft)).values())
        central, released = totals(rounds, delta=self._budget.delta)
        return msgspec.structs.replace(draft, epsilon=_finite(central), epsilon_released=_finite(released))

    def _append(self, extend: Callable[[tuple[LedgerEntry, ...]], LedgerEntry]) -> LedgerEntry:
        with _locked(self._path):
            entries = read_ledger(self._path)
            if not entries:
                entries = (_chained(self._draft(EntryKind.OPENED), ()),)
                _write_line(self._path, entries)
            self._require_same_budget(entries[0])
            entry = _chained(extend(entries), entries)
            _write_line(self._path, (*entries, entry))
            return entry

    def _require_same_budget(self, first: LedgerEntry) -> None:
        held = (first.population, first.epsilon_max, first.delta)
        if held != (self._budget.population, self._budget.epsilon_max, self._budget.delta):
            raise LedgerError(
                f"the privacy ledger was opened for {first.population} with epsilon {first.epsilon_max} at delta "
                f"{first.delta}; that cannot be changed afterwards.",
                fix="Use the same population and budget.",
            )


def read_ledger(path: Path) -> tuple[LedgerEntry, ...]:
    """All lines of the ledger at `path`, verified; none when there is no ledger yet.

    Raises:
        LedgerError: a line is not readable, the chain does not hold, or lines were cut off.
    """
    # A line without its newline was torn by a crash before anybody was told of it: it does not count.
    lines = _content(path).split(b"\n")[:-1]
    if len(lines) > _LINES_MAX:
        raise LedgerError(f"the privacy ledger has more than {_LINES_MAX} lines.")
    entries = tuple(_decode(line, number) for number, line in enumerate(lines, start=1))
    verify_entries(entries)
    head = _read_head(path)
    if head is None and len(entries) > 1:
        raise LedgerError(
            f"the head file of the privacy ledger {path.name} is gone, so that nobody can tell what was cut off.",
            fix="Restore both from a copy; do not train on until they verify.",
        )
    if head is not None and (len(entries) < head.lines or entries[head.lines - 1].digest != head.digest):
        raise LedgerError(
            f"the privacy ledger {path.name} was cut off: {head.lines} lines were written, {len(entries)} are there.",
            fix="Restore the ledger from a copy; do not train on until it verifies.",
        )
    return entries


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return b""


def _decode(line: bytes, number: int) -> LedgerEntry:
    try:
        return msgspec.json.decode(line, type=LedgerEntry)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise LedgerError(f"line {number} of the privacy ledger cannot be read: {error}.") from error


def _chained(draft: LedgerEntry, entries: Sequence[LedgerEntry]) -> LedgerEntry:
    previous = entries[-1].digest if entries else _GENESIS
    linked = msgspec.structs.replace(draft, index=len(entries), previous=previous)
    return msgspec.structs.replace(linked, digest=entry_digest(linked))


def _write_line(path: Path, entries: Sequence[LedgerEntry]) -> None:
    """Append the last entry durably, then move the head. Killed in between, the line counts and the head lags."""
    line = msgspec.json.encode(entries[-1]) + b"\n"
    with path.open("ab") as file:
        file.truncate(_content(path).rfind(b"\n") + 1)
        file.write(line)
        file.flush()
        os.fsync(file.fileno())
    write_atomically(_head_path(path), msgspec.json.encode(_Head(len(entries), entries[-1].digest)))


def _read_head(path: Path) -> _Head | None:
    try:
        return msgspec.json.decode(_head_path(path).read_bytes(), type=_Head)
    except FileNotFoundError:
        return None
    except msgspec.DecodeError as error:
        raise LedgerError(f"the head file of the privacy ledger {path.name} cannot be read.") from error


def _head_path(path: Path) -> Path:
    return path.with_name(f"{path.name}.head")


def _finite(value: float) -> float | None:
    return value if value < float("inf") else None


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.with_name(f"{path.name}.lock").open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
