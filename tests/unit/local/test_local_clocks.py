"""A process whose wall clock is stepped while it runs: by minutes, at once, and nothing else about it changes."""

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from infra.local.clocks import (
    ClockFaultsUnavailableError,
    build_clock_library,
    clock_environment,
    clock_file,
    set_clock_offset,
)
from infra.local.packages import ensure_debian_package

# Says the wall clock as four readers have it, and whether sleeping still takes as long as it should.
READER = """
import datetime, sqlite3, sys, time
for line in sys.stdin:
    began = time.monotonic()
    time.sleep(0.01)
    slept = time.monotonic() - began
    now = datetime.datetime.now(datetime.timezone.utc).timestamp()
    lite = sqlite3.connect(":memory:").execute("select unixepoch('now')").fetchone()[0]
    print(time.time(), time.time_ns() / 1e9, now, lite, slept, flush=True)
"""


def test_every_reader_of_the_wall_clock_sees_the_step_and_sleeping_does_not(tmp_path: Path) -> None:
    ensure_debian_package("gcc", program="cc")
    file = clock_file(tmp_path, "here/api")
    environment = clock_environment(build_clock_library(tmp_path), file)
    process = subprocess.Popen(
        [sys.executable, "-c", READER], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        env={**os.environ, **environment},
    )  # fmt: skip
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        for offset_s in (0.0, 600.0, -600.0, 0.0):
            set_clock_offset(file, offset_s)
            process.stdin.write("\n")
            process.stdin.flush()
            *clocks, slept_s = (float(word) for word in process.stdout.readline().split())
            expected = time.time() + offset_s
            assert all(abs(clock - expected) < 5.0 for clock in clocks), (offset_s, clocks, expected)
            assert 0.01 <= slept_s < 5.0
    finally:
        process.stdin.close()
        process.wait(10)
        process.stdout.close()


def test_a_machine_without_a_compiler_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ClockFaultsUnavailableError, match="no C compiler"):
        build_clock_library(tmp_path)
    (tmp_path / "cc").write_text("#!/bin/sh\necho broken >&2\nexit 1\n")
    (tmp_path / "cc").chmod(0o755)
    with pytest.raises(ClockFaultsUnavailableError, match="broken"):
        build_clock_library(tmp_path)
