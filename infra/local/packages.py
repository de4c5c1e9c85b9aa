"""Bringing in a Debian package that a test needs, when this machine allows it."""

import os
import shutil
import subprocess

from infra.plumbing.environment import environment_with
from infra.plumbing.errors import AtollError

INSTALL_TIMEOUT_S = 300


class PackageMissingError(AtollError):
    """A program is not on the machine and could not be installed."""


def ensure_debian_package(name: str, *, program: str = "") -> str:
    """Install the Debian package `name` unless its program is there; returns the program's path.

    Args:
        name: the package.
        program: what it must bring; empty: a program of the same name.

    Raises:
        PackageMissingError: it is missing and cannot be installed: not root, no apt, or apt failed.
    """
    wanted = program or name
    found = _find(wanted)
    if found:
        return found
    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise PackageMissingError(
            f"{wanted} is missing and cannot be installed without root and apt-get.", fix=f"Install {name} first."
        )
    output = _apt("install", "-y", "--no-install-recommends", name)
    if not _find(wanted):
        _apt("update")
        output = _apt("install", "-y", "--no-install-recommends", name)
    found = _find(wanted)
    if not found:
        raise PackageMissingError(f"apt-get could not install {name}: {output[-500:]}", fix="Install it by hand.")
    return found


def _find(program: str) -> str | None:
    return shutil.which(program) or shutil.which(program, path="/usr/sbin:/sbin")


def _apt(*arguments: str) -> str:
    try:
        done = subprocess.run(
            ["apt-get", "-q", *arguments],  # noqa: S607 - found on the path above
            check=False,
            capture_output=True,
            text=True,
            timeout=INSTALL_TIMEOUT_S,
            # A package that starts a service at installation must not do so here.
            env=environment_with({"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}),
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    return done.stdout + done.stderr
