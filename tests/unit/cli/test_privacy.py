"""`atoll privacy verify-receipt`: what a region signed holds, and nothing else does."""

from pathlib import Path

import msgspec
import pytest

from infra.cli.__main__ import main
from infra.plumbing.keys import RegionKeys, TrustDirectory
from region.privacy.messages import ErasureReceipt, PlaceReceipt
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
