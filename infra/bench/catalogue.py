"""Which measurements there are: the modules of `infra.bench.suites`, found by their file names."""

import ast
import importlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from infra.bench.results import RUNS_MIN, Measured
from infra.plumbing.clock import Clock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.progress import Progress

SUITES = Path(__file__).with_name("suites")


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchRequest:
    """What a suite is asked for.

    Args:
        runs: how many paired runs; figures are medians over them.
        quick: a smoke run that shows that everything works; its figures say little.
        work: a folder of the suite's own; gone afterwards.
        options: further `key=value` words of the command line; each suite's docstring names those that it knows.
        environments: one virtual environment per tier, as in `infra.local.tiers.tier_python`.
    """

    runs: int = RUNS_MIN
    quick: bool = False
    work: Path
    clock: Clock
    progress: Progress
    environments: Path
    options: Mapping[str, str] = field(default_factory=dict)

    def number(self, name: str, default: float) -> float:
        """The option `name` as a number.

        Raises:
            InvalidInputError: it is not one.
        """
        word = self.options.get(name)
        if word is None:
            return default
        try:
            return float(word)
        except ValueError:
            raise InvalidInputError(
                f"the option {name} is {word!r}, not a number.", fix=f"Say --set {name}={default:g}, for example."
            ) from None


def names() -> list[str]:
    """Every suite's name, sorted."""
    return sorted(path.stem.replace("_", "-") for path in SUITES.glob("*.py") if not path.stem.startswith("_"))


def says(name: str) -> str:
    """The first line of the suite's docstring, without importing it."""
    text = ast.get_docstring(ast.parse(_path(name).read_text())) or ""
    return text.partition("\n")[0]


def details(name: str) -> str:
    """The suite's whole docstring: what it does, and its options."""
    return ast.get_docstring(ast.parse(_path(name).read_text())) or ""


def load(name: str) -> Callable[[BenchRequest], Measured]:
    """The `run` of the suite called `name`.

    Raises:
        InvalidInputError: there is none of that name.
    """
    module = importlib.import_module(f"infra.bench.suites.{_path(name).stem}")
    run: Callable[[BenchRequest], Measured] = module.run
    return run


def _path(name: str) -> Path:
    if name not in names():
        raise InvalidInputError(
            f"there is no measurement {name!r}.",
            fix=f"Name one of {', '.join(names()) or 'none'} (./atoll bench list).",
        )
    return SUITES / f"{name.replace('-', '_')}.py"
