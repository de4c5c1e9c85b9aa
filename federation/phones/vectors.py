"""Portable vectors of a dataset's users, as their phones would compute them."""

import secrets
import tempfile
from collections.abc import Sequence
from pathlib import Path

from federation.device.keystore import FileKeyStore
from federation.device.store import DeviceStore
from federation.device.tower import DeviceRelease, load_device_release
from federation.device.vector import PortableVector, portable_vector
from federation.phones.dataset import Row, read_interactions, served_event
from infra.plumbing.errors import InvalidInputError


def portable_headers(release_directory: Path, dataset: Path, users: Sequence[str]) -> dict[str, dict[str, str]]:
    """The two request headers of each user, computed at the moment of the last event, which is held out.

    Raises:
        InvalidInputError: a user has fewer than two events, or the dataset cannot be read.
    """
    release = load_device_release(release_directory)
    wanted = dict.fromkeys(users)
    rows: dict[str, list[Row]] = {user: [] for user in wanted}
    for row in read_interactions(dataset):
        if row.user in rows:
            rows[row.user].append(row)
    headers = {}
    for user, events in rows.items():
        if len(events) < 2:
            raise InvalidInputError(
                f"one of the users has {len(events)} events in this dataset.", fix="A vector needs at least two."
            )
        headers[user] = _vector(release, sorted(events, key=lambda row: row.at_ms)).headers()
    return headers


def _vector(release: DeviceRelease, ordered: Sequence[Row]) -> PortableVector:
    with tempfile.TemporaryDirectory() as folder:
        store = DeviceStore(
            Path(folder) / "phone", keys=FileKeyStore(Path(folder) / "key", entropy=secrets.token_bytes)
        )
        for number, row in enumerate(ordered[:-1]):
            store.add_served(served_event(row, number))
        return portable_vector(release, store.history(release), now_s=ordered[-1].at_ms / 1000)
