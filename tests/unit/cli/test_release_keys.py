"""`atoll release init|rotate-key|delegate|renew` and `atoll rules key`, as an operator types them."""

import json
from pathlib import Path
from typing import Any

import pytest

from infra.cli.__main__ import main
from infra.plumbing.private_files import write_private


class Desk:
    """A folder, and commands over the repository in it."""

    def __init__(self, root: Path) -> None:
        self.root, self.out = root, root / "out.json"

    def release(self, verb: str, *words: str, code: int = 0) -> Any:
        where = ("--repository", str(self.root / "repository"), "--keys", str(self.root / "keys"))
        assert main(["release", verb, *words, *where, "--json", str(self.out)]) == code
        return json.loads(self.out.read_text()) if code == 0 else None


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path)


def test_an_offline_encrypted_root_and_rotations(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    secret = desk.root / "secret"
    write_private(secret, b"a long passphrase\n")
    safe = ("--root-keys", str(desk.root / "safe"), "--root-passphrase-file", str(secret))
    desk.release("init", "--root-threshold", "3/4", *safe)
    assert len(list((desk.root / "safe").glob("root-*.pem"))) == 4
    desk.release("rotate-key", "timestamp", code=2)
    assert "--root-keys" in capsys.readouterr().err
    done = desk.release("rotate-key", "timestamp", *safe)
    assert (done["root_version"], done["threshold"], done["keys"]) == (2, 1, 1)
    done = desk.release("rotate-key", "root", "--number", "2", *safe)
    assert (done["root_version"], done["threshold"], done["keys"], len(done["retired"])) == (3, 3, 4, 1)
    assert desk.release("renew")["version"] > 1
    assert desk.release("list")["releases"] == []


def test_two_people_must_sign_a_release(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.release("init", "--threshold", "targets=2/2", "--threshold", "snapshot=1/2")
    roles = {role["role"]: (role["threshold"], role["keys"]) for role in desk.release("list")["roles"]}
    assert roles == {"root": (2, 3), "targets": (2, 2), "snapshot": (1, 2), "timestamp": (1, 1)}
    aside = desk.root / "aside.pem"
    (desk.root / "keys" / "targets-2.pem").rename(aside)
    desk.release("renew", code=2)
    assert "1 of 2 keys needed for the role targets" in capsys.readouterr().err
    aside.rename(desk.root / "keys" / "targets-2.pem")
    desk.release("renew")
    assert desk.release("rotate-key", "targets", "--number", "2")["threshold"] == 2
    desk.root = desk.root / "another"
    for wrong in ("targets", "targets=3/2", "nobody=1/1", "targets=x/1"):
        desk.release("init", "--threshold", wrong, code=2)


@pytest.mark.parametrize("threshold", ["0/3", "4/3", "3", "x/y", "2/10"])
def test_thresholds_that_cannot_sign(desk: Desk, threshold: str) -> None:
    desk.release("init", "--root-threshold", threshold, code=2)


def test_a_region_is_delegated_to_by_the_public_half_of_its_key(desk: Desk, capsys: pytest.CaptureFixture[str]) -> None:
    desk.release("init")
    made = desk.root / "made.json"
    words = ["rules", "key", "--region", "us-east", "--state", str(desk.root / "world"), "--json", str(made)]
    assert main(words) == 0
    first = json.loads(made.read_text())
    assert first["made"]
    assert Path(first["key"]).stat().st_mode & 0o777 == 0o600
    assert main(words) == 0
    assert json.loads(made.read_text()) == {**first, "made": False}
    done = desk.release("delegate", "us-east", "--public-key", first["public_key"])
    assert (done["key_ids"], done["folder"]) == ([first["key_id"]], "regions/us-east/*")
    roles = {role["role"]: role for role in desk.release("list")["roles"]}
    assert roles["region-us-east"]["folder"] == "regions/us-east/*"
    assert (roles["root"]["threshold"], roles["root"]["keys"], roles["root"]["version"]) == (2, 3, 1)
    assert 23.0 < roles["timestamp"]["left_h"] <= 24.0
    desk.release("delegate", "us-east", "--public-key", first["key"], code=2)
    desk.release("delegate", "us-east", "--withdraw", "--public-key", first["public_key"], code=2)
    desk.release("delegate", "us-east", code=2)
    assert "not a public key" in capsys.readouterr().err
    assert desk.release("delegate", "us-east", "--withdraw")["key_ids"] == []
