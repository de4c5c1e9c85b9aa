"""The account of accesses: whatever is done to its files is found, and what a kill leaves is not taken for it."""

import json
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from infra.plumbing.clock import ManualClock
from infra.plumbing.keys import RegionKeys, TrustDirectory
from region.privacy.access_log import AccessLog, AccessLogError
from region.privacy.accesses import AccessHead, sign_head, verify

KEYS = RegionKeys.generate("us-east")
TRUST = TrustDirectory.of([KEYS])


def opened(directory: Path, *, file_bytes_max: int = 1 << 20, keys: RegionKeys = KEYS) -> AccessLog:
    return AccessLog(
        directory, region="us-east", node="r1", keys=keys, clock=ManualClock(wall_ms=1), file_bytes_max=file_bytes_max,
        files_max=3,
    )  # fmt: skip


def filled(directory: Path, count: int = 10, *, file_bytes_max: int = 1 << 20) -> AccessLog:
    log = opened(directory, file_bytes_max=file_bytes_max)
    for number in range(count):
        log.append(who="operator", action="export", outcome="done", mark=f"{number:032x}")
    return log


def problems(log: AccessLog, *held: AccessHead) -> list[str]:
    return verify(log.entries(), log.head(), TRUST, held=held)


def test_a_chain_that_nobody_touched_is_whole(tmp_path: Path) -> None:
    log = filled(tmp_path)
    assert (log.head().first, log.head().last, problems(log)) == (1, 10, [])
    assert [one.number for one in log.entries(after=3, limit=2)] == [4, 5]
    again = opened(tmp_path)
    earlier = again.head()
    again.append(who="officer", action="erase", outcome="asked")
    assert problems(again, earlier) == []
    assert problems(opened(tmp_path / "empty")) == []


def test_files_are_bounded_and_the_chain_goes_on_across_them(tmp_path: Path) -> None:
    log = filled(tmp_path, 60, file_bytes_max=2_000)
    assert {path.name for path in tmp_path.glob("accesses.jsonl*")} == {
        "accesses.jsonl", "accesses.jsonl.1", "accesses.jsonl.2"
    }  # fmt: skip
    assert sum(path.stat().st_size for path in tmp_path.glob("accesses.jsonl*")) < 3 * 2_500
    assert 1 < log.head().first < log.head().last == 60
    assert problems(log) == []
    # Killed before the oldest file went: it has gone all the same.
    extra = tmp_path / "accesses.jsonl.2"
    extra.write_bytes(
        b'{"number":1,"at_ms":1,"who":"w","action":"a","outcome":"o","before":"b"}\n' + extra.read_bytes()
    )
    assert problems(log) == []
    # A head that is older than what is kept says nothing any more, and is no problem.
    assert problems(log, filled(tmp_path / "other", 2).head()) == []


def lines(path: Path) -> list[bytes]:
    return path.read_bytes().splitlines()


def write(path: Path, content: list[bytes]) -> None:
    path.write_bytes(b"".join(line + b"\n" for line in content))


TAMPERINGS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "edited": lambda held: [held[0].replace(b"operator", b"somebody"), *held[1:]],
    "edited at the end": lambda held: [*held[:-1], held[-1].replace(b"export", b"nothing")],
    "taken out": lambda held: [*held[:4], *held[5:]],
    "cut off": lambda held: held[:-2],
    "cut off by one": lambda held: held[:-1],
    "beginning gone": lambda held: held[1:],
    "reordered": lambda held: [held[1], held[0], *held[2:]],
    "put in twice": lambda held: [*held[:3], held[2], *held[3:]],
    "made unreadable": lambda held: [*held[:3], b"{", *held[4:]],
    "emptied": lambda _: [],
}


@pytest.mark.parametrize("name", TAMPERINGS)
def test_what_is_done_to_the_file_is_found(tmp_path: Path, name: str) -> None:
    log = filled(tmp_path)
    path = tmp_path / "accesses.jsonl"
    write(path, TAMPERINGS[name](lines(path)))
    assert problems(log)


def test_a_chain_written_anew_or_brought_back_is_found_by_a_head_that_somebody_holds(tmp_path: Path) -> None:
    log = filled(tmp_path)
    held = log.head()
    forged = filled(tmp_path / "forged", 10)
    forged.append(who="nobody", action="export", outcome="done")
    assert problems(forged) == [], "by itself it is whole"
    copied = opened(tmp_path / "forged")
    rewritten = sign_head(msgspec.structs.replace(held, hash="0" * 64), KEYS)
    assert any("anew" in one for one in problems(copied, rewritten))
    older = filled(tmp_path / "older", 4)
    assert any("cut off" in one for one in problems(older, held))
    other_node = sign_head(msgspec.structs.replace(held, node="r2"), KEYS)
    assert any("another node" in one for one in problems(log, other_node))


def test_a_head_is_the_regions_own(tmp_path: Path) -> None:
    log = filled(tmp_path)
    path = tmp_path / "accesses.head"
    head = json.loads(path.read_bytes())
    path.write_text(json.dumps({**head, "last": 9}))
    assert any("signed" in one for one in problems(log))
    stranger = opened(tmp_path / "stranger", keys=RegionKeys.generate("us-east"))
    stranger.append(who="operator", action="export", outcome="done")
    assert any("signed" in one for one in problems(stranger))
    path.write_text("{")
    with pytest.raises(AccessLogError, match="audit"):
        log.head()


def test_what_a_kill_leaves_is_mended(tmp_path: Path) -> None:
    log = filled(tmp_path, 3)
    path, head = tmp_path / "accesses.jsonl", (tmp_path / "accesses.head").read_bytes()
    log.append(who="operator", action="export", outcome="asked")
    # Killed behind the entry and before the head: the entry is taken in.
    (tmp_path / "accesses.head").write_bytes(head)
    assert (log.head().last, problems(log)) == (4, [])
    # Killed in the middle of a line: it was not acknowledged, and goes.
    with path.open("ab") as file:
        file.write(b'{"number":5,"at_')
    log.append(who="operator", action="export", outcome="done")
    assert (log.head().last, problems(log)) == (5, [])
