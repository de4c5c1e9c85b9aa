"""Training that is killed leaves nothing that could be taken for a model, and runs again."""

import csv
import subprocess
from pathlib import Path

import pytest

from infra.local.tiers import source_root, tier_python

ROOT = source_root()


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "ring"
    folder.mkdir()
    with (folder / "interactions.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["user_id", "item_id", "timestamp"])
        for user in range(60):
            rows.writerows([f"u{user}", f"i{(user + step) % 40}", 1000 * step + user] for step in range(12))
    imported = folder.parent / "imported"
    run(["data", "import", str(folder), "--to", str(imported)])
    return imported


def command(words: list[str]) -> list[str]:
    return [tier_python("central", ROOT / ".atoll" / "envs"), "-m", "infra.cli", *words]


def run(words: list[str]) -> None:
    done = subprocess.run(command(words), cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr


def test_a_killed_training_leaves_no_model_and_runs_again(dataset: Path, tmp_path: Path):
    model = tmp_path / "model"
    words = ["train", "--dataset", str(dataset), "--out", str(model)]
    # Endless on purpose: it is killed as soon as it has begun to train.
    said = tmp_path.parent / "said.txt"
    with said.open("w") as file:
        victim = subprocess.Popen(command([*words, "--epochs", "100000"]), cwd=ROOT, stderr=file)
    try:
        wait_until_training(victim, said)
    finally:
        victim.kill()
        victim.wait()
    assert not (model / "model.json").exists()
    run([*words, "--epochs", "1"])
    assert (model / "model.json").exists()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


def wait_until_training(victim: "subprocess.Popen[bytes]", said: Path) -> None:
    """Until TensorFlow is mapped and has been busy for a while: the towers are being trained."""
    maps = Path(f"/proc/{victim.pid}/maps")
    status = Path(f"/proc/{victim.pid}/stat")
    for _ in range(100_000):
        if victim.poll() is not None:
            pytest.fail(f"training ended by itself: {said.read_text()}")
        fields = status.read_text().rsplit(")", 1)[1].split()
        cpu_ticks = int(fields[11]) + int(fields[12])
        if "tensorflow" in maps.read_text() and cpu_ticks > 1200:
            return
        try:
            victim.wait(timeout=0.05)
        except subprocess.TimeoutExpired:
            continue
    pytest.fail("training did not begin")
