"""The demo gets Ctrl-C: whatever runs at that moment, nothing stays behind."""

from pathlib import Path

import pytest

from infra.bench.ring import write_ring
from infra.bench.suites.interrupt import interrupt_at


@pytest.fixture(scope="module")
def ring(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_ring(tmp_path_factory.mktemp("ring"))


# The acts that differ most in what runs when the signal comes; `./atoll bench interrupt` does all of them.
@pytest.mark.parametrize("act", ["train", "federated"])
def test_ctrl_c_leaves_nothing_running(act: str, ring: Path, tmp_path: Path):
    ended = interrupt_at(act, ring, tmp_path / "work")
    assert ended.code == 130, ended.said
    assert "Traceback" not in ended.said
    assert not ended.left
