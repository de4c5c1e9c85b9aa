"""`atoll keys` and `atoll api`, on the files of a world that does not run."""

import argparse
import asyncio
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp.test_utils import make_mocked_request

from infra.cli.__main__ import main
from infra.cli.region import door_of
from infra.local.layout import layout_of
from infra.plumbing.clock import ManualClock, SystemClock
from infra.plumbing.errors import ForbiddenError, InvalidInputError
from infra.plumbing.keys import LiveTrust, RegionKeys, TrustDirectory
from infra.plumbing.operators import named_key
from infra.plumbing.service_keys import KeyRing
from infra.plumbing.tokens import open_subject, verify_token
from region.api.doors import live_operator_door
from region.events.opening import open_log
from region.settings import RegionSettings
from tests.contract.building import ALICE, BOB, logged


@pytest.fixture
def state(tmp_path: Path) -> Path:
    layout = layout_of(tmp_path / "world")
    keys = [RegionKeys.generate(name) for name in ("us-east", "us-west")]
    for one in keys:
        one.save(layout.keys(one.region))
    TrustDirectory.of(keys).save(layout.trust)
    return layout.state


def run(state: Path, *words: str) -> Any:
    out = state / "out.json"
    assert main(["keys", *words, "--region", "us-east", "--state", str(state), "--json", str(out)]) == 0
    return json.loads(out.read_text())


def test_a_token_holds_until_its_key_is_retired(state: Path, capsys: pytest.CaptureFixture[str]):
    clock = SystemClock()
    token = str(run(state, "token", "--user", "42")["token"])
    keys = RegionKeys.load(layout_of(state).keys("us-east"))
    trust = TrustDirectory.load(layout_of(state).trust)
    assert open_subject(verify_token(token, trust, clock=clock), keys) == keys.pseudonym("user", "42")
    rotated = run(state, "rotate")
    assert rotated["issuers"] == [{"kid": "us-east", "signs": True}, {"kid": "us-east/2", "signs": False}]
    assert run(state, "retire", "--kid", "us-east")["retired"] == ["us-east"]
    assert run(state, "list")["issuers"] == [{"kid": "us-east/2", "signs": True}]
    trust = TrustDirectory.load(layout_of(state).trust)
    assert set(trust.regions) == {"us-east", "us-west"}
    verify_token(str(run(state, "token", "--user", "42")["token"]), trust, clock=clock)
    assert main(["keys", "token", "--region", "us-east", "--state", str(state), "--user", "1", "--hours", "9999"]) == 2
    assert main(["keys", "list", "--region", "nowhere", "--state", str(state)]) == 2
    assert "no such region" in capsys.readouterr().err


def test_an_operator_has_a_key_of_their_own_until_it_is_retired(
    state: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = tmp_path / "ada.key"
    made = run(state, "operator", "add", "--name", "ada", "--out", str(own))
    assert own.stat().st_mode & 0o777 == 0o600
    clock, keys_file = ManualClock(), layout_of(state).keys("us-east")
    door = live_operator_door(keys_file, clock)
    whole = RegionKeys.load(keys_file).operator_key

    def admitted(key: str) -> str:
        return door(make_mocked_request("GET", "/", headers={"Authorization": f"Operator {key}"}))

    assert own.read_text().strip() == made["key"]
    assert [admitted(key) for key in (made["key"], whole, named_key(whole, "bob"))] == ["ada", "operator", "bob"]
    name, _, digest = made["key"].partition(":")
    for forged in (f"bob:{digest}", f"{name}:", f"{name}:{digest}x", f"operator:{digest}", f"region:{digest}", ":", ""):
        with pytest.raises(ForbiddenError):
            admitted(forged)
    arguments = argparse.Namespace(url="http://here", key_file=own, ca=None, operator=None)
    assert door_of(arguments)[1] == made["key"]
    arguments.operator = "bob"
    with pytest.raises(InvalidInputError, match="who you are already"):
        door_of(arguments)
    arguments.key_file = keys_file
    assert door_of(arguments)[1] == named_key(whole, "bob")
    run(state, "operator", "retire", "--name", "ada")
    clock.advance(2.0)
    with pytest.raises(ForbiddenError):
        admitted(made["key"])
    assert admitted(named_key(whole, "bob")) == "bob"
    for words in (("add", "--name", "ada"), ("add", "--name", "operator"), ("retire", "--name", "Ä")):
        assert main(["keys", "operator", *words, "--region", "us-east", "--state", str(state)]) == 2
    assert "was retired" in capsys.readouterr().err


def test_service_keys_are_made_listed_and_revoked(state: Path):
    clock = SystemClock()
    made = run(state, "service", "add", "--name", "shop", "--scope", "read", "--scope", "bulk")
    path = layout_of(state).service_keys("us-east")
    assert path.stat().st_mode & 0o777 == 0o600
    assert KeyRing(path, clock=clock).verify(str(made["key"])).scopes == ("read", "bulk")
    run(state, "service", "revoke", "--id", str(made["id"]))
    listed = run(state, "service", "list")
    assert listed == [{"id": made["id"], "name": "shop", "scopes": "read bulk", "holds": False}]
    assert str(made["secret"]) not in json.dumps(listed)


def test_the_document_is_written_to_a_file(tmp_path: Path):
    assert main(["api", "document", "--out", str(tmp_path / "openapi.json")]) == 0
    assert json.loads((tmp_path / "openapi.json").read_text())["openapi"] == "3.1.0"


def test_live_trust_is_a_trust_directory(state: Path):
    path = layout_of(state).trust
    assert LiveTrust(path, clock=SystemClock()).regions == TrustDirectory.load(path).regions


def test_everything_is_wrapped_by_a_new_rest_key_and_still_opens(state: Path) -> None:
    layout = layout_of(state)
    folder = layout.region("us-east") / "state"
    folder.mkdir()
    settings = RegionSettings(
        node="r1", region="us-east", port=1, worker_port=2, state_directory=str(folder), repository_url="",
        trusted_root="", keys_file=str(layout.keys("us-east")), trust_file="", grid="memory",
    )  # fmt: skip
    (layout.region("us-east") / "region.json").write_bytes(msgspec.json.encode(settings))

    async def live() -> list[str]:
        log = open_log(settings)
        await log.append([logged(1), logged(2, subject=BOB)])
        read = [one.logged.subject for one in await log.read(after={0: 0}, limit=10)]
        await log.close()
        return read

    assert asyncio.run(live()) == [ALICE, BOB]
    # The log's file and the keys' file; two subjects.
    assert run(state, "rotate-rest") == {"files": 2, "subjects": 2, "rest_keys": ["2"]}
    assert asyncio.run(live()) == [ALICE, BOB]
    assert run(state, "rotate-rest")["rest_keys"] == ["3"]
    assert asyncio.run(live()) == [ALICE, BOB]
