"""Tiers install apart: each from its own lock, into an empty environment, and its process starts there."""

import json
import os
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from central.release.repository import init_repository
from edge.settings import EdgeSettings
from infra.plumbing.clock import SystemClock
from infra.plumbing.keys import RegionKeys, TrustDirectory
from region.settings import RegionSettings

ROOT = Path(__file__).resolve().parents[2]
EDGE_BYTES_MAX = 80 * 1024 * 1024
PATIENCE_TRIES = 300


def install(tier: str, target: Path) -> Path:
    uv = str(ROOT / ".atoll" / "bootstrap" / "bin" / "uv")
    if not Path(uv).exists():
        pytest.fail("run the tests with ./atoll test, which brings uv in")
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never"}
    environment.pop("PYTHONPATH", None)
    python = target / "bin" / "python"
    lock = str(ROOT / "locks" / f"{tier}.txt")
    for command in (
        [uv, "venv", "-q", "--python", sys.executable, str(target)],
        [uv, "pip", "sync", "-q", "--require-hashes", "--python", str(python), lock],
    ):
        subprocess.run(command, check=True, env=environment, timeout=300)
    return python


@pytest.fixture(scope="module")
def edge_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install("edge", tmp_path_factory.mktemp("edge") / "environment")


@pytest.fixture(scope="module")
def region_python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return install("region", tmp_path_factory.mktemp("region") / "environment")


@pytest.fixture
def trust(tmp_path: Path) -> Path:
    keys = RegionKeys.generate("us-east")
    keys.save(tmp_path / "keys.json")
    TrustDirectory.of([keys]).save(tmp_path / "trust.json")
    root = init_repository(repository=tmp_path / "repository", keys=tmp_path / "release-keys", clock=SystemClock())
    (tmp_path / "root.json").write_bytes(root)
    return tmp_path


def common(folder: Path, port: int) -> dict[str, object]:
    return {
        "node": "n1", "region": "us-east", "port": port, "state_directory": str(folder / "state"),
        "repository_url": "http://127.0.0.1:9", "trusted_root": str(folder / "root.json"),
        "keys_file": str(folder / "keys.json"), "trust_file": str(folder / "trust.json"), "grid": "memory",
    }  # fmt: skip


@contextmanager
def alive(python: Path, module: str, settings: msgspec.Struct, folder: Path, port: int) -> Iterator[int]:
    (folder / "settings.json").write_bytes(msgspec.json.encode(settings))
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [str(python), "-m", module, "--settings", str(folder / "settings.json")],
        env=environment,
        stderr=subprocess.PIPE,
    )
    try:
        yield wait_alive(process, port)
    finally:
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)


def wait_alive(process: subprocess.Popen[bytes], port: int) -> int:
    for _ in range(PATIENCE_TRIES):
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/health/live", timeout=1) as answer:
                assert json.load(answer) == {"status": "live"}
                return process.pid
        except (urllib.error.URLError, ConnectionError):
            try:
                process.wait(timeout=0.1)
            except subprocess.TimeoutExpired:
                continue
            assert process.stderr is not None
            pytest.fail(f"the process ended: {process.stderr.read().decode()}")
    pytest.fail("the process did not answer")


def mapped_files(pid: int) -> str:
    return Path(f"/proc/{pid}/maps").read_text()


def test_an_edge_environment_is_small(edge_python: Path):
    folder = edge_python.parent.parent
    size = sum(path.lstat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    assert size <= EDGE_BYTES_MAX, f"{size / 2**20:.0f} MB"


def test_an_edge_starts_without_numpy_or_tensorflow(edge_python: Path, trust: Path, unused_tcp_port: int):
    settings = EdgeSettings(**common(trust, unused_tcp_port), home_urls=("http://127.0.0.1:9",), away_urls={})  # type: ignore[arg-type]
    with alive(edge_python, "edge", settings, trust, unused_tcp_port) as pid:
        maps = mapped_files(pid)
        assert "uvloop" in maps
        assert "tensorflow" not in maps
        assert "numpy" not in maps


def test_a_region_environment_carries_no_tensorflow(region_python: Path, trust: Path, unused_tcp_port: int):
    assert not list((region_python.parent.parent / "lib").glob("python*/site-packages/tensorflow*"))
    settings = RegionSettings(**common(trust, unused_tcp_port), worker_port=0)  # type: ignore[arg-type]
    with alive(region_python, "region", settings, trust, unused_tcp_port) as pid:
        assert "tensorflow" not in mapped_files(pid)
