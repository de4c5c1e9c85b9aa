"""The dataset folder that a command names: imported already, or a plain folder that is imported on the way."""

import hashlib
from pathlib import Path
from typing import Final

from infra.cli.output import progress_bar

IMPORTED: Final = Path(".atoll/datasets")


def ready_dataset(dataset: Path) -> Path:
    """The dataset folder itself, or, for a plain folder that nobody imported yet, its import beside our state.

    Importing is deterministic, so commands that are called one after the other see the same dataset.
    """
    from central.commands import import_dataset

    plain = any((dataset / f"interactions.{kind}").exists() for kind in ("csv", "parquet"))
    if (dataset / "dataset.json").exists() or not plain:
        return dataset
    name = hashlib.sha256(str(dataset.resolve()).encode()).hexdigest()[:12]
    imported = IMPORTED / f"{dataset.resolve().name}-{name}"
    with progress_bar() as progress:
        import_dataset(source=str(dataset), out=imported, progress=progress)
    return imported
