"""`python -m infra.bench.federated.release_job --out DIR ...`: a dataset, a trained release and its test requests.

Runs in central's environment; prints the release's folder.
"""

import argparse
import sys
from pathlib import Path

from central.commands import build_release, import_dataset, train, write_served_requests


def main() -> int:
    """Make them."""
    parser = argparse.ArgumentParser(prog="python -m infra.bench.federated.release_job", description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--archive", default="ml-100k", help="what `atoll data import` takes")
    parser.add_argument("--epochs", type=int, default=0, help="0: central's own number")
    parser.add_argument("--users", type=int, default=400, help="test requests that are written")
    arguments = parser.parse_args()
    dataset, model = arguments.out / "dataset", arguments.out / "model"
    import_dataset(source=arguments.archive, out=dataset)
    train(dataset=dataset, out=model, epochs=arguments.epochs or None)
    built = build_release(model=model, dataset=dataset, out=arguments.out / "bundles", allow_failed_gates=True)
    write_served_requests(model=model, dataset=dataset, out=arguments.out, users_max=arguments.users)
    sys.stdout.write(built.path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
