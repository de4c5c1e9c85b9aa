"""Journals on a node's disk: whom they do not know costs no reading, and nobody is missed for it."""

from pathlib import Path

import pytest

from region.sampling import journal
from region.sampling.served import ServedSample, ServedSamples
from tests.contract.building import ALICE, BOB, NOW_MS


def a_sample(subject: str, *, at_ms: int = NOW_MS) -> ServedSample:
    return ServedSample(sample="s", subject=subject, offset=1, now_ms=at_ms, release="r")


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Every file that was read."""
    found: list[Path] = []
    read = journal._read

    def noted(path: Path, *given: object, **more: object) -> object:
        found.append(path)
        return read(path, *given, **more)  # type: ignore[arg-type]

    monkeypatch.setattr(journal, "_read", noted)
    return found


def test_who_was_never_sampled_costs_one_reading_altogether(tmp_path: Path, reads: list[Path]) -> None:
    samples = ServedSamples(tmp_path)
    samples.note(a_sample(ALICE))
    samples.write(now_ms=NOW_MS)
    again = ServedSamples(tmp_path)
    assert again.of_subject(BOB) == []
    reads.clear()
    for subject in (BOB, "c" * 32):
        assert (again.of_subject(subject), again.forget(subject)) == ([], 0)
    assert reads == []
    again.note(a_sample(BOB))
    assert len(again.of_subject(BOB)) == len(again.of_subject(ALICE)) == 1
    assert again.forget(BOB) == again.forget(ALICE) == 1
    again.note(a_sample(ALICE))
    assert again.forget(ALICE) == 1, "who is noted again is known again"


def test_whoever_stays_when_files_change_places_or_run_out_is_known(tmp_path: Path) -> None:
    samples = ServedSamples(tmp_path, bytes_max=2, life_ms=1_000)
    assert samples.of_subject(ALICE) == []
    for subject, at_ms in ((ALICE, NOW_MS), (BOB, NOW_MS + 600)):
        samples.note(a_sample(subject, at_ms=at_ms))
        samples.write(now_ms=at_ms)
        assert len(samples.of_subject(subject)) == 1
    samples.write(now_ms=NOW_MS + 1_500)
    assert (len(samples.of_subject(ALICE)), len(samples.of_subject(BOB))) == (0, 1)
