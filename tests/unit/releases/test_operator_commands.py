"""The operator's and central's release commands as they are typed: from the words to the region's API and back."""

import asyncio
import json
from pathlib import Path

import msgspec
import pytest

from infra.cli.__main__ import main
from infra.plumbing.keys import RegionKeys
from tests.support.bundles import make_bundle
from tests.unit.releases.conftest import Central
from tests.unit.releases.test_operator_api import KEY, url

__all__ = ["url"]


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "keys.json"
    msgspec.structs.replace(RegionKeys.generate("us-east"), operator_key=KEY).save(path)
    return path


async def test_an_operators_day_at_the_terminal(
    url: str, key_file: Path, central: Central, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, two = (central.publish(seed=seed).release for seed in (1, 2))

    async def type_in(*words: str, code: int = 0) -> str:
        full = ["region", "us-east", *words, "--url", url, "--key-file", str(key_file)]
        assert await asyncio.to_thread(main, full) == code
        said = capsys.readouterr()
        return said.out + said.err

    assert two in await type_in("pull")
    assert "bytes fetched" in await type_in("pull", one)
    assert "what was signed" in await type_in("verify", one)
    assert "towers" in await type_in("inspect", one)
    assert "is not on this region's disk" in await type_in("inspect", "0" * 20, code=2)
    assert "nothing was changed" in await type_in("promote", one, "--dry-run")
    assert f"answers from {one}" in await type_in("promote", one)
    assert "refuses promotions" in await type_in("pin")
    assert "pinned" in await type_in("promote", two, code=2)
    assert "can be promoted again" in await type_in("unpin")
    assert "no change but a roll-back" in await type_in("freeze")
    assert "frozen" in await type_in("canary", two, code=2)
    assert "takes changes again" in await type_in("unfreeze")
    assert "tries" in await type_in("shadow", two, "--minutes", "5")
    report = await type_in("trial")
    assert f"shadow of {two}" in report
    assert "ignored" in report
    assert "an operator stopped it" in await type_in("stop-trial")
    assert "tries" in await type_in("canary", two, "--share", "0.2", "--slow-ms", "50", "--click-loss-max", "0.2")
    await type_in("stop-trial")
    await type_in("promote", two)
    assert f"answers from {one} again" in await type_in("rollback")
    assert "a roll-back already" in await type_in("rollback")
    difference = await type_in("diff", two, "--people", "0")
    assert f"a region that has {one} fetches" in difference
    assert "cosine after the best rotation" in difference
    assert "more than two" in await type_in("diff", one, two, one, code=2)
    assert "neither pinned nor frozen" in await type_in("releases")
    await type_in("freeze")
    listed = await type_in("releases")
    assert "frozen" in listed
    await type_in("unfreeze")
    assert "active" in listed
    assert "previous" in listed
    audited = await type_in("audit")
    assert "freeze" in audited
    assert "+00:00  ada" in audited  # a moment that people read, and whose doing it was
    assert "out of bounds" in (said := await type_in("canary", two, "--share", "0.9", code=2)) or "share" in said


async def test_a_region_that_is_not_there_is_said_in_a_line(key_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    away = ["--url", "http://127.0.0.1:9", "--key-file", str(key_file)]
    assert await asyncio.to_thread(main, ["region", "us-east", "releases", *away]) == 2
    assert "does not answer" in capsys.readouterr().err
    assert main(["region", "us-east", "releases", "--url", "http://127.0.0.1:9"]) == 2
    assert "needs --key-file" in capsys.readouterr().err


def test_centrals_release_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = ["--repository", str(tmp_path / "repository"), "--keys", str(tmp_path / "keys")]
    assert main(["release", "init", *place]) == 0
    names = [make_bundle(tmp_path / "bundles", seed=seed, ndcg10=0.1 + seed / 100) for seed in (1, 2)]
    for name in names:
        assert main(["release", "publish", str(tmp_path / "bundles" / name), *place]) == 0
    assert main(["release", "renew", *place]) == 0
    capsys.readouterr()
    assert main(["release", "list", *place]) == 0
    listed = capsys.readouterr().out
    assert names[1] in listed
    assert "2 of 3" in listed
    assert main(["release", "inspect", names[0], *place, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["summary"]["release"] == names[0]
    assert main(["release", "diff", *names, *place]) == 0
    assert "ndcg10" in capsys.readouterr().out
    assert main(["release", "inspect", "0" * 20, *place]) == 2
    assert "is not published" in capsys.readouterr().err


def test_a_federation_that_never_ran_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for verb, says in (("status", "no run yet"), ("ledger", "0 rounds")):
        assert main(["federate", verb, "--state", str(tmp_path)]) == 0
        assert says in capsys.readouterr().out
