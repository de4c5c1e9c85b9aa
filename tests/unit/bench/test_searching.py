"""People are found wherever they stand: in files, in memory, in removed files, in every form, across each other."""

import base64
import os
import subprocess
import sys
from pathlib import Path

from infra.bench.searching import Wanted, found_in_files, found_in_memory, found_in_open_files, missed_plants

NAME, OTHER = "0123456789abcdef" * 2, "f" + "0123456789abcdef" * 2


def test_people_are_found_in_files_whatever_stands_beside_them(tmp_path: Path) -> None:
    (tmp_path / "releases").mkdir()
    (tmp_path / "releases" / "names").write_text("a" * 32)
    (tmp_path / "state.bin").write_bytes(b"\xffsubject" + OTHER.encode() + b"\x00")
    wanted = Wanted(dict.fromkeys((NAME, OTHER[:32], "a" * 32, "b" * 32), ()))
    assert found_in_files(tmp_path, wanted, None) == {"state.bin": {NAME, OTHER[:32]}}


def test_people_are_found_by_their_events_and_in_every_form(tmp_path: Path) -> None:
    wanted = Wanted({NAME: ("e" * 32,)})
    assert wanted.plain_in(b"x" + b"e" * 32) == {NAME}
    assert wanted.plain_in(base64.b64encode(bytes.fromhex(NAME))) == set()
    assert wanted.any_in(b"--" + base64.b64encode(bytes.fromhex(NAME))) == {NAME}
    assert missed_plants(NAME) == []


def test_people_are_found_in_memory_and_in_removed_files(tmp_path: Path) -> None:
    secret, kept = os.urandom(16).hex(), os.urandom(16).hex()
    (tmp_path / "removed").write_text(f"...{kept}...")
    program = (
        "import os, sys; file = open(sys.argv[2]); os.unlink(sys.argv[2]);"
        " wide = sys.argv[1].upper().encode('utf-16'); print(flush=True); sys.stdin.read()"
    )
    # A small process: this one may have grown large.
    holding = [sys.executable, "-S", "-c", program, f"...{secret}...", str(tmp_path / "removed")]
    with subprocess.Popen(holding, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        holder.stdout.readline()
        wanted = Wanted({secret: (), kept: (), "0" * 31 + "x": ()})
        for forms in (False, True):
            assert found_in_memory([holder.pid], wanted, forms=forms) == ({secret}, 0)
        assert found_in_open_files([holder.pid], wanted) == {kept}
        holder.communicate()
