"""Names are found wherever they stand: in files, in memory, across each other."""

import os
import subprocess
import sys
from pathlib import Path

from infra.bench.searching import found_names, names_in_memory

NAME, OTHER = "0123456789abcdef" * 2, "f" + "0123456789abcdef" * 2


def test_names_are_found_in_files_whatever_stands_beside_them(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "names").write_text("a" * 32)
    (tmp_path / "state.bin").write_bytes(b"\xffsubject" + OTHER.encode() + b"\x00")
    wanted = frozenset({NAME, OTHER[:32], "a" * 32, "b" * 32})
    assert found_names(tmp_path, wanted, None) == {NAME, OTHER[:32]}


def test_names_are_found_in_memory() -> None:
    secret = os.urandom(16).hex()
    # A small process: this one may have grown large.
    holding = [sys.executable, "-S", "-c", "import sys; print(flush=True); sys.stdin.read()", f"...{secret}..."]
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        assert names_in_memory([holder.pid], frozenset({secret, "0" * 31 + "x"})) == {secret}
        holder.communicate()
