"""Who calls in the demo: users of the dataset with tokens of their home regions, and anonymous visitors."""

import csv
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from infra.demo.load import Call
from infra.plumbing.clock import Clock
from infra.plumbing.keys import RegionKeys
from infra.plumbing.tokens import issue_token


@dataclass(frozen=True, slots=True)
class Caller:
    """A user of the dataset as the demo plays them."""

    user_id: str
    home: str
    token: str

    @property
    def headers(self) -> dict[str, str]:
        """What the caller's application sends."""
        return {"Authorization": f"Bearer {self.token}", "Atoll-Client-Region": self.home}


def read_users(dataset: Path) -> dict[str, list[str]]:
    """User ids of a plain dataset folder by home region, in file order."""
    by_region: dict[str, list[str]] = {}
    with (dataset / "users.csv").open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            by_region.setdefault(row["region"], []).append(row["user_id"])
    return by_region


def read_history(dataset: Path) -> dict[str, list[str]]:
    """Item ids of every user, oldest first."""
    events: dict[str, list[tuple[float, int, str]]] = {}
    with (dataset / "interactions.csv").open(encoding="utf-8", newline="") as file:
        for number, row in enumerate(csv.DictReader(file)):
            events.setdefault(row["user_id"], []).append((float(row["timestamp"]), number, row["item_id"]))
    return {user: [item for _, _, item in sorted(rows)] for user, rows in events.items()}


def pick_callers(
    users: Mapping[str, Sequence[str]], keys: Mapping[str, RegionKeys], *, per_region: int, clock: Clock
) -> list[Caller]:
    """The first `per_region` users of each region, regions taking turns."""
    columns = [
        [Caller(user, region, issue_token(keys[region], user, clock=clock)) for user in users[region][:per_region]]
        for region in keys
    ]
    return [caller for row in itertools.zip_longest(*columns) for caller in row if caller is not None]


def mixed_calls(
    callers: Sequence[Caller], items: Sequence[str], vectors: Mapping[str, Mapping[str, str]]
) -> list[Call]:
    """What an application asks for over a day, shuffled together: mostly personal lists, some of every other kind.

    Args:
        callers: whose lists are asked for.
        items: anchors for similar lists.
        vectors: headers with the portable vector of those users whose phones computed one, by user id.
    """
    calls: list[Call] = []
    for number, caller in enumerate(callers):
        anchor = quote(items[number % len(items)], safe="")
        plain = {"Atoll-Client-Region": caller.home}
        personal = {**caller.headers, **vectors.get(caller.user_id, {})}
        calls.append(Call("/v1/recommendations/personal?n=10", personal, caller.home, personal=True))
        calls.append(
            Call(f"/v1/recommendations/similar?item={anchor}&surface=detail", plain, caller.home, personal=False)
        )
        calls.append(Call("/v1/recommendations/personal?n=20&surface=feed", personal, caller.home, personal=True))
        if number % 3 == 0:
            calls.append(Call("/v1/recommendations/trending?n=10", plain, caller.home, personal=False))
        if number % 3 == 1:
            calls.append(Call("/v1/recommendations/popular?n=10", plain, caller.home, personal=False))
        if number % 3 == 2:
            calls.append(Call(f"/v1/recommendations/session?recent={anchor}", plain, caller.home, personal=False))
    return calls
