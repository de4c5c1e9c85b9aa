"""`atoll privacy`: what a region signed holds, and nothing else does; an account that lost its end is found out."""

from pathlib import Path

import msgspec
import pytest

from infra.cli.__main__ import main
from infra.plumbing.clock import ManualClock
from infra.plumbing.keys import RegionKeys, TrustDirectory
from region.privacy.access_log import AccessLog
from region.privacy.messages import AccessPage, ErasureReceipt, PlaceReceipt
from region.privacy.receipts import sign_receipt


def test_a_receipt_is_verified_with_a_trust_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    keys = RegionKeys.generate("us-east")
    TrustDirectory.of([keys]).save(tmp_path / "trust.json")
    place = PlaceReceipt(place="store", what="rows", before=1, removed=1, after=0)
    receipt = ErasureReceipt(
        region="us-east", node="r1", mark="m" * 32, erased_ms=1, finished_ms=2, places=(place,), edges_told=True,
        complete=True, not_reached=(),
    )  # fmt: skip
    file = tmp_path / "receipt.json"
    file.write_bytes(msgspec.json.encode(sign_receipt(receipt, keys)))
    words = ["privacy", "verify-receipt", str(file), "--trust", str(tmp_path / "trust.json")]
    assert main(words) == 0
    assert "signed by us-east" in capsys.readouterr().out
    file.write_bytes(file.read_bytes().replace(b'"after":0', b'"after":1'))
    assert main(words) == 2
    assert "the signature does not fit" in capsys.readouterr().err


def test_an_audit_remembers_where_the_account_stood(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody names a head: the command holds the account against what it found whole the time before."""
    keys = RegionKeys.generate("us-east")
    TrustDirectory.of([keys]).save(tmp_path / "trust.json")
    node = tmp_path / "node"
    log = AccessLog(node, region="us-east", node="us-east-1", keys=keys, clock=ManualClock())
    monkeypatch.setattr("infra.cli.privacy.door_of", lambda _arguments: ("", "", None))
    monkeypatch.setattr(
        "region.privacy.commands.accesses", lambda *_door: AccessPage(entries=tuple(log.entries()), head=log.head())
    )
    words = [
        "privacy", "audit", "--region", "us-east", "--verify", "--trust", str(tmp_path / "trust.json"),
        "--heads", str(tmp_path / "officer"),
    ]  # fmt: skip
    for _ in range(2):
        log.append(who="operator", action="export", outcome="done", mark="m")
    kept = {path.name: path.read_bytes() for path in node.iterdir()}
    log.append(who="operator", action="erase", outcome="done", mark="m")
    assert main(words) == 0
    log.append(who="operator", action="why", outcome="done", mark="m")
    assert main(words) == 0
    assert "1 heads held" in capsys.readouterr().out
    for name, content in kept.items():  # entries and the head that was signed with them: whole by itself
        (node / name).write_bytes(content)
    for _ in range(2):  # and what was whole last stays the evidence
        assert main(words) == 2
        assert "cut off or brought back from a copy" in capsys.readouterr().out
