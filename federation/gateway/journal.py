"""What the gateway keeps on disk about rounds: enough to end each of them once, whatever happens to the process.

A round is written down when it opens and when it ends; its sum lives in memory only. So after kill -9 a round has
either ended with the result that was written, noise included, or it is void. Noise is never drawn twice for a sum.
"""

from pathlib import Path

import msgspec

from federation.messages import ROUND_ID_PATTERN, Phase, RegionalSum
from infra.contracts.residency import Global, GlobalMessage
from infra.plumbing.errors import AtollError
from infra.plumbing.files import write_atomically

RECORDS_MAX = 200
"""Rounds that are remembered; the oldest are forgotten."""


class JournalError(AtollError):
    """A round's record cannot be read."""


class RoundRecord(GlobalMessage, frozen=True, kw_only=True):
    """One round: when it opened, its result once it has ended, and how long each of its phases lasted."""

    round_id: Global[str]
    region: Global[str]
    opened_ms: Global[int]
    plan_digest: Global[str]
    result: Global[RegionalSum | None] = None
    phases_s: Global[dict[str, float]] = msgspec.field(default_factory=dict)


class Journal:
    """Records of rounds in a folder, one file each."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        directory.mkdir(parents=True, exist_ok=True)

    def read(self, round_id: str) -> RoundRecord | None:
        """The record of a round, if there is one.

        Raises:
            JournalError: the record is damaged.
        """
        try:
            return msgspec.json.decode(self._path(round_id).read_bytes(), type=RoundRecord)
        except FileNotFoundError:
            return None
        except msgspec.DecodeError as error:
            raise JournalError(
                f"the record of round {round_id} cannot be read: {error}.", fix="Remove the file; the round is void."
            ) from error

    def write(self, record: RoundRecord) -> None:
        """Write a record durably, and forget the oldest above RECORDS_MAX."""
        write_atomically(self._path(record.round_id), msgspec.json.encode(record))
        paths = sorted(self._directory.glob("*.json"), key=lambda path: (path.stat().st_mtime_ns, path.name))
        for path in paths[:-RECORDS_MAX]:
            path.unlink(missing_ok=True)

    def recover(self) -> list[str]:
        """Make every round that was open when the process died void. Returns their ids."""
        lost: list[str] = []
        for path in sorted(self._directory.glob("*.json")):
            record = self.read(path.stem)
            if record is not None and record.result is None:
                reason = "the gateway was restarted during the round"
                void = RegionalSum(
                    round_id=record.round_id, region=record.region, phase=Phase.VOID, reason=reason
                )  # fmt: skip
                self.write(msgspec.structs.replace(record, result=void))
                lost.append(record.round_id)
        return lost

    def _path(self, round_id: str) -> Path:
        if not ROUND_ID_PATTERN.fullmatch(round_id):
            raise JournalError("that is not a round id.", fix="Round ids are 16 to 64 lower-case hex digits.")
        return self._directory / f"{round_id}.json"
