"""Looking at releases that are on this disk: what one is made of, and what another would change. Changes nothing."""

import asyncio
import contextlib
import os
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from infra.plumbing.errors import AtollError, ConflictError, InvalidInputError
from infra.plumbing.releases.comparing import diff_manifests, verdicts_of_manifests
from infra.plumbing.releases.contents import ContentError
from infra.plumbing.releases.messages import PEOPLE, PEOPLE_MAX, Comparison, Interval
from infra.plumbing.tuf_client.manifests import total_bytes
from region.releases.looking import open_contents
from region.releases.messages import DiffAnswer, InspectAnswer, PublishedAnswer, PublishedRelease
from region.releases.operations import NoActiveReleaseError
from region.releases.store import ReleaseStore
from region.retrieval.child import start_child

COMPARED_BYTES_MAX = 1 << 30
"""Of one release. Larger ones are compared by their manifests here, and by their content at central."""
COMPARED_WITHIN_S = 300.0
SEED_MAX = 2**31 - 1
_ROOT = Path(__file__).resolve().parents[2]


class DiffCall(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be compared. `before` None: the active release."""

    after: str
    before: str | None = None
    people: int = PEOPLE
    seed: int = 0

    def check(self) -> None:
        """Refuse numbers that are out of bounds.

        Raises:
            InvalidInputError: one is.
        """
        if not 0 <= self.people <= PEOPLE_MAX:
            raise InvalidInputError(f"people must lie between 0 and {PEOPLE_MAX}.", fix=f"{PEOPLE} show most of it.")
        if not 0 <= self.seed <= SEED_MAX:
            raise InvalidInputError(f"seed must lie between 0 and {SEED_MAX}.", fix="Leave it out.")


class Looks:
    """Answers an operator's questions about releases. Belongs to one event loop; one comparison at a time.

    Args:
        store: releases on disk.
        active: the release that answers now.
    """

    def __init__(self, store: ReleaseStore, *, active: Callable[[], str | None]) -> None:
        self._store = store
        self._active = active
        self._comparing = False

    async def published(self) -> PublishedAnswer:
        """What could be pulled.

        Raises:
            as `ReleaseStore.published`.
        """
        return await asyncio.to_thread(self._published)

    async def inspect(self, release: str) -> InspectAnswer:
        """One release.

        Raises:
            InvalidInputError, NotFoundError, ReleaseDamagedError: as `ReleaseStore.directory`.
        """
        with self._store.holding(release):
            return await asyncio.to_thread(self._inspect, release)

    async def diff(self, call: DiffCall) -> DiffAnswer:
        """Two releases side by side, made in another process.

        Raises:
            InvalidInputError, NotFoundError, ReleaseDamagedError: as `ReleaseStore.directory`.
            ConflictError: others are being compared.
            AtollError: the comparison failed; says why.
        """
        call.check()
        before, after = call.before or self._active(), call.after
        if before is None:
            raise NoActiveReleaseError("This region runs no release yet.", fix="Name two releases that are here.")
        if self._comparing:
            raise ConflictError("Two releases are being compared here.", fix="Wait until that is done, then ask again.")
        self._comparing = True
        try:
            with self._store.holding(before), self._store.holding(after):
                old, new = [await asyncio.to_thread(self._store.directory, one) for one in (before, after)]
                files = diff_manifests(old.manifest, new.manifest, before=before, after=after)
                if max(total_bytes(one.manifest) for one in (old, new)) > COMPARED_BYTES_MAX:
                    return DiffAnswer(files=files, compared=verdicts_of_manifests(old.manifest, new.manifest))
                return DiffAnswer(files=files, compared=await _compared(old.path, new.path, call))
        finally:
            self._comparing = False

    def _published(self) -> PublishedAnswer:
        found = self._store.published()
        here = {one.release_id for one in self._store.pulled()}
        releases = [
            PublishedRelease(
                release=release, channels=tuple(name for name, of in found.channels.items() if of == release),
                here=release in here,
            )
            for release in found.releases
        ]  # fmt: skip
        return PublishedAnswer(releases=tuple(sorted(releases, key=lambda one: (not one.channels, not one.here))))

    def _inspect(self, release: str) -> InspectAnswer:
        directory = self._store.directory(release)
        contents, manifest = open_contents(directory.path), directory.manifest
        stages: dict[str, dict[str, float]] = {}
        intervals: dict[str, dict[str, Interval]] = {}
        note, stand_ins = "", 0
        try:
            stand_ins = contents.stand_ins
            figures = contents.evaluation
            stages, intervals = {**figures.stage, **figures.baselines}, figures.intervals
        except ContentError as error:
            note = error.message
        return InspectAnswer(
            release=release, created_at_ms=manifest.created_at_ms, origin=manifest.origin, dataset=manifest.dataset,
            dataset_sha256=manifest.dataset_sha256, parent=manifest.parent, content_sha256=manifest.content_sha256,
            gates=manifest.gates, metrics=manifest.metrics, stages=stages, intervals=intervals, sizes=contents.sizes,
            bytes_total=total_bytes(manifest), files=manifest.files, active=release == self._active(),
            previous=release == self._store.state.previous, note=note, stand_ins=stand_ins,
        )  # fmt: skip


def _words(before: Path, after: Path, call: DiffCall) -> tuple[str, ...]:
    folders = (os.path.abspath(folder) for folder in (before, after))
    options = ("--people", str(call.people), "--seed", str(call.seed))
    return (sys.executable, "-m", "region.releases.looking", *folders, *options)


async def _compared(before: Path, after: Path, call: DiffCall) -> Comparison:
    child = await start_child(_words(before, after, call), directory=_ROOT)
    try:
        async with asyncio.timeout(COMPARED_WITHIN_S):
            found, said = await asyncio.gather(child.stdout.read(), child.stderr.read())
            code = await child.wait()
    except BaseException as error:
        with contextlib.suppress(ProcessLookupError):
            child.kill()
        await child.wait()
        if isinstance(error, TimeoutError):
            raise AtollError(f"the comparison was not done in {COMPARED_WITHIN_S:.0f} s.", fix="Ask again.") from error
        raise
    finally:
        child.close()
    if code:
        last = said.decode(errors="replace").strip().rpartition("\n")[2]
        raise AtollError(f"the comparison failed (exit code {code}): {last[:300]}", fix="Verify both releases.")
    return msgspec.json.decode(found, type=Comparison)
