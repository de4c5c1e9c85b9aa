"""`./atoll test`: what CI runs, step by step, stopping at nothing so that one run tells everything."""

import argparse
import subprocess
import sys
from pathlib import Path

from infra.cli.output import add_json_option, emit
from infra.local.servers.running import stop_servers
from infra.plumbing.clock import SystemClock
from infra.plumbing.environment import environment_with

ROOT = Path(__file__).resolve().parent.parent.parent
COVERAGE_MIN = 85
COVERED_SEEDS = "400"
"""Simulated worlds of the unit step: its coverage tracer makes each three times as slow. `simulation` runs them all."""
SERVERS = ROOT / ".atoll" / "servers" / "tests"


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll test`."""
    parser = commands.add_parser(
        "test",
        help="lint, types, architecture, unit, contract, simulation, integration and acceptance tests",
        description="Runs everything that CI runs. Example: ./atoll test --only unit",
    )
    parser.add_argument("--only", choices=sorted(_steps()), action="append", help="run only this step; may be repeated")
    add_json_option(parser)
    parser.set_defaults(run=_run)


def _steps() -> dict[str, list[str]]:
    python = [sys.executable, "-m"]
    binaries = Path(sys.executable).parent
    pytest = [*python, "pytest", "-q", "--durations=8"]
    covered = ["--cov", "--cov-append", "--cov-report="]
    return {
        "lint": [*python, "ruff", "check", "."],
        "format": [*python, "ruff", "format", "--check", "."],
        "types": [*python, "mypy"],
        "architecture": [str(binaries / "lint-imports")],
        "unit": [*pytest, "-n", "2", *covered, "tests/unit", "tests/contract", "tests/architecture", "tests/sim"],
        "simulation": [*pytest, "-n", "2", "tests/sim"],
        # They wait for processes more than they compute; a file's tests share what they started.
        "integration": [*pytest, "-n", "2", "--dist", "loadfile", *covered, "tests/integration"],
        "acceptance": [*pytest, *covered, "tests/acceptance"],
        "coverage": [*python, "coverage", "report", f"--fail-under={COVERAGE_MIN}"],
    }


def _run(arguments: argparse.Namespace) -> int:
    clock = SystemClock()
    for old in ROOT.glob(".coverage*"):
        old.unlink()
    # The first test that needs real servers starts them here, for all steps.
    environment = environment_with({"ATOLL_TEST_SERVERS": str(SERVERS)})
    few_worlds = {**environment, "ATOLL_SIM_SEEDS": environment.get("ATOLL_SIM_SEEDS", COVERED_SEEDS)}
    results: dict[str, dict[str, float | bool]] = {}
    for name, command in _steps().items():
        if arguments.only and name not in arguments.only:
            continue
        print(f"== {name}", file=sys.stderr, flush=True)
        started_s = clock.monotonic_s()
        of_step = few_worlds if name == "unit" else environment
        passed = subprocess.run(command, cwd=ROOT, env=of_step, check=False).returncode == 0
        results[name] = {"passed": passed, "seconds": round(clock.monotonic_s() - started_s, 1)}
    stop_servers(SERVERS, clock=clock)
    text = "\n".join(
        f"{'ok  ' if result['passed'] else 'FAIL'} {name} ({result['seconds']} s)" for name, result in results.items()
    )
    failed = sum(not result["passed"] for result in results.values())
    emit(arguments, {"steps": results, "failed": failed}, f"{text}\n{len(results) - failed} passed, {failed} failed")
    return 1 if failed else 0
