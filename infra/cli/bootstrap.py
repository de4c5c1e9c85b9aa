"""Makes the environment that a command needs, then becomes that command.

Runs on a bare Python 3.11+ with nothing installed, so it imports only the standard library and nothing of ours.
One virtual environment per tier lives in `.atoll/envs`, made by uv from the tier's hashed lock; uv itself comes from
`locks/bootstrap.txt`. An environment is rebuilt when its lock or the interpreter changes.
"""

import fcntl
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent
HOME = ROOT / ".atoll"
ALL_SERVING = ("infra", "edge", "region", "federation")

# The first tier runs the command; the others run the processes that it starts.
TIERS_OF_COMMAND: dict[str, tuple[str, ...]] = {
    "data": ("central",),
    "train": ("central",),
    "evaluate": ("central", "region"),
    "release": ("central",),
    "federate": ("federation",),
    "phone": ("federation",),
    "api": ("edge",),
    "rules": ("region", "infra"),
    "events": ("infra", "region"),
    "store": ("infra", "region"),
    "features": ("infra", "region", "batch"),
    "experiments": ("infra", "region"),
    "world": ALL_SERVING,
    "demo": (*ALL_SERVING, "central"),
    "bench": ("bench", *ALL_SERVING, "central", "device"),
    "test": ("development", *ALL_SERVING, "central", "device"),
}


def main(arguments: list[str]) -> None:
    """Prepare the environments of `arguments[0]` and replace this process by the command."""
    command = next((word for word in arguments if not word.startswith("-")), "")
    tiers = TIERS_OF_COMMAND.get(command, ("infra",))
    if {"-h", "--help"} & set(arguments):
        tiers = tiers[:1]
    prepare(tiers)
    environment = dict(os.environ)
    environment["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), environment.get("PYTHONPATH", "")]))
    # A region that comes back starts ten processes at once: our own bytecode must be there too.
    environment.pop("PYTHONDONTWRITEBYTECODE", None)
    python = str(HOME / "envs" / tiers[0] / "bin" / "python")
    os.execve(python, [python, "-m", "infra.cli", *arguments], environment)


def prepare(tiers: tuple[str, ...]) -> None:
    """Make or refresh the environments of `tiers`; one caller at a time."""
    HOME.mkdir(exist_ok=True)
    with (HOME / "envs.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for tier in tiers:
            if not _is_current(tier):
                _make(tier)


def _stamp(tier: str) -> str:
    lock = (ROOT / "locks" / f"{tier}.txt").read_bytes()
    return f"{hashlib.sha256(lock).hexdigest()} {sys.version_info[0]}.{sys.version_info[1]}\n"


def _is_current(tier: str) -> bool:
    stamp = HOME / "envs" / tier / "atoll-lock"
    return stamp.is_file() and stamp.read_text() == _stamp(tier)


def _make(tier: str) -> None:
    started = time.monotonic()
    _say(f"making the {tier} environment from locks/{tier}.txt ...")
    target = HOME / "envs" / tier
    (target / "atoll-lock").unlink(missing_ok=True)
    uv = _uv()
    python = str(target / "bin" / "python")
    if not Path(python).exists():
        _run([uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(target)])
    lock = str(ROOT / "locks" / f"{tier}.txt")
    # Serving processes are started often and must be up soon; the two large environments are not worth the wait.
    compiled = ["--compile-bytecode"] if tier in ALL_SERVING else []
    _run([uv, "pip", "sync", "--quiet", "--require-hashes", *compiled, "--python", python, lock])
    (target / "atoll-lock").write_text(_stamp(tier))
    _say(f"made the {tier} environment in {time.monotonic() - started:.0f} s")


def _uv() -> str:
    target = HOME / "bootstrap"
    uv = target / "bin" / "uv"
    stamp = target / "atoll-lock"
    if stamp.is_file() and stamp.read_text() == _stamp("bootstrap"):
        return str(uv)
    _run([sys.executable, "-m", "venv", "--clear", str(target)])
    lock = str(ROOT / "locks" / "bootstrap.txt")
    _run([str(target / "bin" / "python"), "-m", "pip", "install", "--quiet", "--require-hashes", "-r", lock])
    stamp.write_text(_stamp("bootstrap"))
    return str(uv)


def _run(command: list[str]) -> None:
    environment = {**os.environ, "UV_PYTHON_DOWNLOADS": "never", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    environment.pop("PYTHONPATH", None)
    environment.setdefault("UV_LINK_MODE", "hardlink")
    if subprocess.run(command, env=environment, check=False).returncode:
        _say(f"error: this step failed: {' '.join(command)}")
        _say("Check that the package registry can be reached and that the disk has 6 GB free, then run it again.")
        if command[1:3] == ["-m", "venv"]:
            _say(
                "On Debian and Ubuntu the standard library's venv is a package of its own: apt-get install python3-venv"
            )
        raise SystemExit(2)


def _say(text: str) -> None:
    sys.stderr.write(f"atoll: {text}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
