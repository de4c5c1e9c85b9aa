"""Portable vectors of a dataset's users, as their phones would compute them."""

from collections.abc import Sequence
from pathlib import Path

from federation.device.store import DeviceStore
from federation.device.tower import load_device_release
from federation.device.vector import portable_vector
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
            raise InvalidInputError(f"user {user} has {len(events)} events.", fix="A vector needs at least two.")
        ordered = sorted(events, key=lambda row: row.at_ms)
        # A store that is never saved: the file does not exist and is not made.
        store = DeviceStore(release_directory / ".no-such-phone")
        for number, row in enumerate(ordered[:-1]):
            store.add_served(served_event(row, number))
        history = store.history(release)
        headers[user] = portable_vector(release, history, now_s=ordered[-1].at_ms / 1000).headers()
    return headers
