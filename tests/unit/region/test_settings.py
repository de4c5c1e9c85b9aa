"""A region's settings have bounds: what could not work is refused where the file is read, and not found out later."""

from pathlib import Path

import msgspec
import pytest

from infra.contracts.events import EVENTS_PER_BATCH_MAX
from infra.plumbing.errors import SettingsError
from infra.plumbing.settings import load_settings
from region.settings import RegionSettings

KNOWN: dict[str, object] = {
    "node": "n", "region": "r", "port": 0, "worker_port": 0, "state_directory": "", "repository_url": "",
    "trusted_root": "", "keys_file": "", "trust_file": "", "grid": "memory",
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("history_max", 0), ("history_max", 1_000_000), ("intake_queue_max", EVENTS_PER_BATCH_MAX - 1),
        ("body_bytes_max", 0), ("poll_interval_s", 0.0), ("precompute", {"hours_utc": [24]}),
        ("session_life_s", 2 * 86_400.0), ("behaviour_life_s", 366 * 86_400.0), ("log_retention_s", 731 * 86_400.0),
    ],
)  # fmt: skip
def test_what_could_not_work_is_refused_by_its_name(tmp_path: Path, name: str, value: object) -> None:
    path = tmp_path / "region.json"
    path.write_bytes(msgspec.json.encode(KNOWN))
    assert load_settings(path, RegionSettings).history_max == 200
    path.write_bytes(msgspec.json.encode({**KNOWN, name: value}))
    with pytest.raises(SettingsError, match=name):
        load_settings(path, RegionSettings)
