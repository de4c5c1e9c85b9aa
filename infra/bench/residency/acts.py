"""What people, operators and phones do in the world of `bench residency`, and by what they are looked for."""

import json
import struct
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import urllib3

from infra.bench.catalogue import BenchRequest
from infra.bench.residency.bypasses import Watch
from infra.bench.residency.plants import Planted
from infra.bench.ring import REGIONS, USERS
from infra.bench.serving.published import PublishedRing
from infra.local.tiers import source_root, tier_python
from infra.local.world import World
from infra.plumbing.errors import UnavailableError
from infra.plumbing.ids import new_request_id
from infra.plumbing.tokens import issue_token
from region.privacy import commands as privacy
from region.privacy.messages import SubjectExport
from region.releases import commands as releases

HOME, AWAY = REGIONS[0], REGIONS[1]
HEALED_WITHIN_S = 60.0
COMMAND_TIMEOUT_S = 300.0


@dataclass(kw_only=True)
class Traces:
    """Everything by which somebody could be told in what crossed."""

    event_ids: list[str] = field(default_factory=list)
    sessions: list[str] = field(default_factory=list)
    tokens: list[str] = field(default_factory=list)
    canaries: list[str] = field(default_factory=list)
    exports: list[SubjectExport] = field(default_factory=list)

    def secrets(self, world: World) -> dict[str, list[str | bytes]]:
        """All of them, by kind."""
        found: dict[str, list[str | bytes]] = {
            "event id": list(self.event_ids), "session": list(self.sessions), "token": list(self.tokens),
            "sensitive canary": list(self.canaries), "user id": [f"u{number}" for number in range(USERS)],
        }  # fmt: skip
        for region in (HOME, AWAY):
            keys = world.keys(region)
            found.setdefault("pseudonym", []).extend(
                keys.pseudonym("user", user) for user in _users_of(region)
            )  # fmt: skip
            found["pseudonym"] += [keys.session_subject(one) for one in self.sessions]
        found["feature"] = [form for value in self._affinities() for form in _number_forms(value)]
        return found

    def planted(self, world: World) -> Planted:
        """One of each to plant."""
        user = _users_of(HOME)[0]
        return Planted(
            pseudonym=world.keys(HOME).pseudonym("user", user), user_id=user, event_id=self.event_ids[0],
            item="i1", affinity=self._affinities()[0], session=self.sessions[0],
        )  # fmt: skip

    def _affinities(self) -> list[float]:
        """Decayed values of people's leanings: seventeen digits that nobody else has."""
        return [
            one.value
            for export in self.exports
            if export.row is not None
            for kind in export.row.affinities.values()
            for one in kind
            if len(repr(one.value)) >= _TELLING_DIGITS
        ]


_TELLING_DIGITS = 12
"""Shorter numbers are anybody's."""


class Acts:
    """Plays them in order; `done` names those that were played.

    Raises:
        UnavailableError: an act did not do what it is there for.
    """

    def __init__(self, request: BenchRequest, world: World, ring: PublishedRing) -> None:
        self._request = request
        self._ring = ring
        self._world = world
        self._users = _users_of(HOME)[: int(request.number("users", 4 if request.quick else 12))]
        self._vectors: dict[str, dict[str, str]] = {}
        self.traces = Traces()
        self.watch = Watch()
        self.done: list[str] = []

    def play(self) -> None:
        """Every act."""
        acts: dict[str, Callable[[], None]] = {
            "vectors": self._compute_vectors, "requests": self._ask_for_lists, "events": self._tell_events,
            "travelling": self._travel, "privacy": self._use_rights, "operator": self._operate,
            "failover": self._lose_home, "rounds": self._train, "release": self._switch,
        }  # fmt: skip
        for number, (name, act) in enumerate(acts.items(), start=1):
            act()
            self.watch.look(self._world)
            self.done.append(name)
            self._request.progress.advance(number, len(acts), "acts")

    def _compute_vectors(self) -> None:
        found = self._command(
            "federation", "federate", "vector", "--release", self._bundle, "--dataset", self._dataset, *self._users
        )
        self._vectors = found["vectors"]

    def _ask_for_lists(self) -> None:
        for edge in self._world.edge_urls(HOME):
            for user in self._users:
                self._get(edge, "/v1/recommendations/personal?n=10&explain=1", self._mine(user))
            self.traces.sessions.append(session := f"session-{new_request_id()}")
            self._get(edge, "/v1/recommendations/session?n=10&recent=i7", {"Atoll-Session": session})
            for path in ("similar?item=i3&n=10", "trending?n=10", "popular?n=10", "together?item=i3&n=10"):
                self._get(edge, f"/v1/recommendations/{path}", {})

    def _tell_events(self) -> None:
        for number, user in enumerate(self._users):
            edge = self._world.edge_urls(HOME)[number % 2]
            self._send_event(edge, self._mine(user), f"i{number}")

    def _travel(self) -> None:
        """Home's people at another region's edges: what they ask and tell goes home in sealed boxes."""
        edge = self._world.edge_urls(AWAY)[0]
        for user in self._users:
            headers = self._mine(user)
            self._get(edge, "/v1/recommendations/personal?n=10", headers)
            self._send_event(edge, headers, "i5")
            for opted_out in (True, False):
                self._put(edge, "/v1/privacy/opt-out", headers, {"opted_out": opted_out})

    def _use_rights(self) -> None:
        url, key = self._world.region_url(HOME), self._world.keys(HOME).operator_key
        self.traces.exports = [privacy.export(url, key, user=user) for user in self._users]
        leaver = _users_of(HOME)[-1]
        self._get(self._world.edge_urls(HOME)[0], "/v1/privacy/export", self._mine(leaver))
        self._get(self._world.edge_urls(HOME)[0], "/v1/privacy/why/i7?locale=de", self._mine(leaver))
        # Abroad it is refused, and the refusal must not say whose it was.
        self._call("GET", self._world.edge_urls(AWAY)[0], "/v1/privacy/export", self._mine(leaver), want=403)
        privacy.erase(url, key, user=leaver)

    def _operate(self) -> None:
        for region in (HOME, AWAY):
            url, key = self._world.region_url(region), self._world.keys(region).operator_key
            releases.releases(url, key)
            privacy.accesses(url, key)

    def _lose_home(self) -> None:
        """The home region goes; its people are answered elsewhere, with the vector of their phone or without."""
        self._world.kill(HOME)
        try:
            for user in self._users:
                headers = {**self._mine(user), "Atoll-Client-Region": HOME}
                self._get(self._world.balancer_url, "/v1/recommendations/personal?n=10", headers)
                vector = self._vectors.get(user, {})
                self._get(self._world.balancer_url, "/v1/recommendations/personal?n=11", {**headers, **vector})
        finally:
            self._world.heal(HOME)
            self._world.wait(region=HOME, timeout_s=HEALED_WITHIN_S)

    def _train(self) -> None:
        self.traces.canaries.append(canary := f"canary-{new_request_id()}")
        phones = str(int(self._request.number("phones", 30)))
        self._command(
            "federation", "federate", "round", "--state", self._world.state, "--release", self._bundle, "--rounds", "1",
            "--phones", phones, "--dataset", self._dataset, "--canary", canary, "--plain",
        )  # fmt: skip

    def _switch(self) -> None:
        """The other release in both regions: told at home, pulled over the link to central."""
        for region in (HOME, AWAY):
            url, key = self._world.region_url(region), self._world.keys(region).operator_key
            active = releases.releases(url, key).active
            other = next(one for one in self._ring.releases if one != active)
            releases.pull(url, key, release=other)
            releases.promote(url, key, release=other)
            self._get(self._world.edge_urls(region)[0], "/v1/recommendations/popular?n=10", {})

    @property
    def _bundle(self) -> Path:
        return self._request.work / "bundles-0" / self._ring.releases[0]

    @property
    def _dataset(self) -> Path:
        return self._ring.dataset

    def _mine(self, user: str) -> dict[str, str]:
        token = issue_token(self._world.keys(HOME), user, clock=self._request.clock, life_s=3600)
        self.traces.tokens.append(token)
        return {"Authorization": f"Bearer {token}"}

    def _send_event(self, edge: str, headers: dict[str, str], item: str) -> None:
        self.traces.event_ids.append(event_id := f"bench-{new_request_id()}")
        event = {"event_id": event_id, "type": "click", "item": item, "at_ms": self._request.clock.now_ms()}
        self._call("POST", edge, "/v1/events", headers, body={"events": [event]})

    def _get(self, url: str, path: str, headers: dict[str, str]) -> None:
        self._call("GET", url, path, headers)

    def _put(self, url: str, path: str, headers: dict[str, str], body: Any) -> None:
        self._call("PUT", url, path, headers, body=body)

    def _call(
        self, method: str, url: str, path: str, headers: dict[str, str], *, body: Any = None, want: int = 200
    ) -> None:  # fmt: skip
        content = {"body": json.dumps(body), "headers": {**headers, "Content-Type": "application/json"}}
        answer = urllib3.request(
            method, url + path, timeout=10.0, retries=False, **(content if body is not None else {"headers": headers})
        )  # fmt: skip
        if answer.status != want:
            raise UnavailableError(f"{method} {path} was answered {answer.status}: {answer.data[:300]!r}")

    def _command(self, tier: str, *words: str | Path) -> Any:
        """Run a command in a tier's environment; what it writes as JSON."""
        target = self._request.work / f"command-{new_request_id()}.json"
        done = subprocess.run(
            [tier_python(tier, self._request.environments), "-m", "infra.cli", *map(str, words), "--json", str(target)],
            capture_output=True, cwd=source_root(), timeout=COMMAND_TIMEOUT_S, check=False,
        )  # fmt: skip
        if done.returncode:
            raise UnavailableError(f"atoll {words[0]} {words[1]} failed: {done.stderr[-800:].decode(errors='replace')}")
        return json.loads(target.read_bytes())


def _users_of(region: str) -> list[str]:
    return [f"u{number}" for number in range(REGIONS.index(region), USERS, len(REGIONS))]


def _number_forms(value: float) -> list[str | bytes]:
    return [repr(value), struct.pack("<d", value), struct.pack(">d", value)]
