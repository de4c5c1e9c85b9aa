"""Wall clocks that can be stepped: a fault of processes, for worlds that are made to be hurt (`clock_faults`).

A library of sixty lines of C is loaded before a process's others and adds to its wall clock what stands in a file.
libfaketime does the same and more; its Debian version also touches sleeping, which `time.sleep` answers with EINVAL
when the monotonic clock is left alone, and that would be another fault than the one that is looked for.
"""

import shutil
import struct
import subprocess
from pathlib import Path

from infra.plumbing.errors import AtollError

OFFSET_VARIABLE = "ATOLL_CLOCK_OFFSET"
COMPILE_TIMEOUT_S = 60
_SOURCE = Path(__file__).with_name("clock_step.c")
_OFFSET = struct.Struct("=q")


class ClockFaultsUnavailableError(AtollError):
    """The library that steps clocks cannot be made on this machine."""


def build_clock_library(directory: Path) -> Path:
    """Compile the library into `directory`.

    Raises:
        ClockFaultsUnavailableError: there is no C compiler, or it fails.
    """
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        raise ClockFaultsUnavailableError("there is no C compiler here.", fix="Install one (Debian: gcc).")
    directory.mkdir(parents=True, exist_ok=True)
    library = directory / "clock_step.so"
    done = subprocess.run(
        [compiler, "-O2", "-shared", "-fPIC", "-o", str(library), str(_SOURCE), "-ldl"],
        capture_output=True, text=True, timeout=COMPILE_TIMEOUT_S, check=False,
    )  # fmt: skip
    if done.returncode:
        raise ClockFaultsUnavailableError(f"the library that steps clocks was not made: {done.stderr[-500:]}")
    return library


def clock_file(directory: Path, process: str) -> Path:
    """Where the offset of a process's clock stands."""
    return directory / process.replace("/", ".")


def clock_environment(library: Path, file: Path) -> dict[str, str]:
    """What a process's environment needs; makes the file with an offset of 0."""
    file.write_bytes(_OFFSET.pack(0))
    return {"LD_PRELOAD": str(library), OFFSET_VARIABLE: str(file)}


def set_clock_offset(file: Path, seconds: float) -> None:
    """Let the wall clock of a process that runs be off by `seconds`, from its next reading on."""
    # In place: the process has this file mapped, not another one of its name.
    with file.open("r+b") as opened:
        opened.write(_OFFSET.pack(round(seconds * 1e9)))
