"""The privacy ledger: chain, budget, and no way around either."""

import json
from pathlib import Path

import msgspec
import pytest

from federation.privacy.accountant import Release, epsilon
from federation.privacy.ledger import (
    Budget,
    EntryKind,
    Ledger,
    LedgerEntry,
    LedgerError,
    PrivacyBudgetSpentError,
    entry_digest,
    read_ledger,
    verify_entries,
)
from infra.plumbing.clock import ManualClock

BUDGET = Budget(population="phones", epsilon_max=8.0, delta=1e-6)


def _ledger(path: Path, budget: Budget = BUDGET) -> Ledger:
    return Ledger(path, budget=budget, clock=ManualClock())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ledger.jsonl"


def test_a_round_is_reserved_and_spent_at_the_accountants_own_figure(path: Path) -> None:
    ledger = _ledger(path)
    reserved = ledger.reserve("r1", noise_multiplier=1.0)
    spent = ledger.settle("r1", regions=3)
    expected = epsilon([Release(1.0)], delta=1e-6)
    assert reserved.epsilon == spent.epsilon == expected
    assert reserved.epsilon_released == expected
    assert spent.epsilon_released == epsilon([Release(3**0.5)], delta=1e-6)
    assert [entry.kind for entry in read_ledger(path)] == [EntryKind.OPENED, EntryKind.RESERVED, EntryKind.SPENT]


def test_totals_compose_over_runs(path: Path) -> None:
    for name in ("r1", "r2"):
        _ledger(path).reserve(name, noise_multiplier=1.0)
        last = _ledger(path).settle(name, regions=1)
    assert last.epsilon == epsilon([Release(1.0)] * 2, delta=1e-6)


def test_a_void_round_books_nothing(path: Path) -> None:
    ledger = _ledger(path)
    ledger.reserve("r1", noise_multiplier=1.0)
    assert ledger.settle("r1", regions=0).epsilon == 0.0


def test_the_budget_stops_training_and_a_restart_does_not_help(path: Path) -> None:
    for name in ("r1", "r2"):
        _ledger(path).reserve(name, noise_multiplier=1.0)  # never settled: a server that was killed
    before = path.read_bytes()
    with pytest.raises(PrivacyBudgetSpentError, match=r"8\.000"):
        _ledger(path).reserve("r3", noise_multiplier=1.0)
    with pytest.raises(PrivacyBudgetSpentError, match="infinity"):
        _ledger(path).reserve("r3", noise_multiplier=0.0)
    assert path.read_bytes() == before
    for budget in (
        Budget(population="phones", epsilon_max=80.0, delta=1e-6),
        Budget(population="phones", epsilon_max=8.0, delta=1e-2),
        Budget(population="others", epsilon_max=8.0, delta=1e-6),
    ):
        with pytest.raises(LedgerError, match="cannot be changed"):
            _ledger(path, budget).reserve("r3", noise_multiplier=1.0)
    _ledger(path).settle("r2", regions=0)
    assert _ledger(path).reserve("r4", noise_multiplier=1.0).epsilon is not None


def test_a_round_is_booked_and_settled_once(path: Path) -> None:
    ledger = _ledger(path)
    ledger.reserve("r1", noise_multiplier=2.0)
    with pytest.raises(LedgerError, match="already"):
        ledger.reserve("r1", noise_multiplier=2.0)
    ledger.settle("r1", regions=1)
    for name in ("r1", "unknown"):
        with pytest.raises(LedgerError, match="not waiting"):
            ledger.settle(name, regions=0)


def _two_rounds(path: Path) -> list[bytes]:
    ledger = _ledger(path)
    for name in ("r1", "r2"):
        ledger.reserve(name, noise_multiplier=4.0)
        ledger.settle(name, regions=2)
    return path.read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize("line", range(5))
def test_any_changed_line_is_found(path: Path, line: int) -> None:
    lines = _two_rounds(path)
    changed = json.loads(lines[line])
    changed["noise_multiplier"] = 9.0
    lines[line] = json.dumps(changed).encode() + b"\n"
    path.write_bytes(b"".join(lines))
    with pytest.raises(LedgerError, match=f"line {line + 1} "):
        read_ledger(path)
    with pytest.raises(LedgerError):
        _ledger(path).reserve("r9", noise_multiplier=4.0)


@pytest.mark.parametrize("line", range(5))
def test_any_removed_line_is_found(path: Path, line: int) -> None:
    lines = _two_rounds(path)
    path.write_bytes(b"".join(lines[:line] + lines[line + 1 :]))
    with pytest.raises(LedgerError):
        read_ledger(path)


def test_a_ledger_that_is_gone_altogether_is_noticed(path: Path) -> None:
    _two_rounds(path)
    path.unlink()
    with pytest.raises(LedgerError, match="cut off"):
        _ledger(path).reserve("r9", noise_multiplier=4.0)


def test_swapped_lines_and_a_forged_chain_of_wrong_order_are_found(path: Path) -> None:
    lines = _two_rounds(path)
    path.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
    with pytest.raises(LedgerError, match="line 2"):
        read_ledger(path)
    entries = [msgspec.json.decode(line, type=LedgerEntry) for line in lines]
    settled_first = _rechained([entries[0], entries[2]])
    with pytest.raises(LedgerError, match="not reserved"):
        verify_entries(settled_first)
    with pytest.raises(LedgerError, match="second time"):
        verify_entries(_rechained([entries[0], entries[1], entries[1]]))
    with pytest.raises(LedgerError, match="wrong place"):
        verify_entries(_rechained([entries[1]]))


def _rechained(entries):
    previous, chained = "0" * 64, []
    for index, entry in enumerate(entries):
        linked = msgspec.structs.replace(entry, index=index, previous=previous)
        chained.append(msgspec.structs.replace(linked, digest=entry_digest(linked)))
        previous = chained[-1].digest
    return chained


def test_a_line_torn_by_a_crash_does_not_count_and_does_not_harm(path: Path) -> None:
    _two_rounds(path)
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"index": 5, "prev')
    assert len(read_ledger(path)) == 5
    _ledger(path).reserve("r3", noise_multiplier=4.0)
    assert len(read_ledger(path)) == 6


def test_a_crash_between_line_and_head_is_survived(path: Path) -> None:
    _two_rounds(path)
    head = path.with_name("ledger.jsonl.head")
    old_head = head.read_bytes()
    _ledger(path).reserve("r3", noise_multiplier=4.0)
    head.write_bytes(old_head)
    assert len(read_ledger(path)) == 6
    head.write_bytes(b"{")
    with pytest.raises(LedgerError, match="head file"):
        read_ledger(path)


def test_what_is_not_json_is_named(path: Path) -> None:
    path.write_bytes(b"nonsense\n")
    with pytest.raises(LedgerError, match="line 1"):
        read_ledger(path)


def test_no_ledger_means_nothing_spent(path: Path) -> None:
    assert read_ledger(path) == ()
    assert _ledger(path).entries() == ()
