"""What Prometheus reads of processes that live for one run, and how far a run says that it is."""

import json
import os
import subprocess
import sys
import urllib.request
from pathlib import Path

import msgspec
import pytest
from prometheus_client import CollectorRegistry

from federation.flower.exporter import FlowerProcesses, kind_of
from federation.flower.plan import PROGRESS_FILE, DeploymentPlan, PrivacyPlan, RegionLink, RunPlan
from federation.flower.watching import steps, steps_done
from federation.metrics_page import metrics_page
from federation.phones.metrics import phones_registry
from infra.local.scraping import scrape
from infra.plumbing.environment import environment_with


def read(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=5) as answer:
        text: str = answer.read().decode()
        return text


@pytest.mark.parametrize(
    ("command", "kind"),
    [
        (b"python\0/env/bin/flower-superlink\0--port\09", "superlink"),
        (b"python\0/env/bin/flower-supernode", "supernode"),
        (b"flwr-serverapp\0--token", "serverapp"),
        (b"flwr-clientapp", "clientapp"),
        (b"sleep\09", "other"),
    ],
)
def test_flowers_processes_are_known_by_their_command(command: bytes, kind: str):
    assert kind_of(command) == kind


def test_processes_below_the_supervisor_are_counted_with_their_memory(tmp_path: Path):
    with subprocess.Popen(["sleep", "60"]) as child:
        try:
            registry = CollectorRegistry()
            registry.register(FlowerProcesses(os.getpid()))
            with metrics_page(registry, targets_file=tmp_path / "flower.json", process="flower") as address:
                page = read(address)
                named = scrape((), tmp_path)
        finally:
            child.kill()
    assert 'atoll_flower_processes{kind="superlink"} 0.0' in page
    assert float(page.split('atoll_flower_processes{kind="other"} ')[1].split()[0]) >= 1
    assert 'atoll_flower_resident_bytes{kind="other"}' in page
    assert 'atoll_flower_cpu_seconds_total{kind="other"}' in page
    assert named.keys() == {"flower"}
    assert not (tmp_path / "flower.json").exists()
    assert scrape((), tmp_path) == {}


def test_the_exporter_ends_with_who_started_it(tmp_path: Path):
    targets = tmp_path / "flower.json"
    starter = (
        "import os, subprocess, sys, time, pathlib\n"
        "watch = ['-m', 'federation.flower.exporter', '--watch', str(os.getpid())]\n"
        f"child = subprocess.Popen([sys.executable, *watch, '--targets', {str(targets)!r}])\n"
        f"while not pathlib.Path({str(targets)!r}).exists() and child.poll() is None: time.sleep(0.02)\n"
        "print(child.pid, flush=True)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", starter], capture_output=True, text=True, timeout=30, check=True,
        cwd=Path(__file__).resolve().parents[3], env=environment_with({}),
    )  # fmt: skip
    pid = int(done.stdout)
    (entry,) = json.loads(targets.read_text())
    assert entry["labels"] == {"process": "flower"}
    # The starter has ended, and the kernel ends the exporter.
    for _ in range(500):
        status = Path(f"/proc/{pid}/stat")
        if not status.exists() or status.read_text().rpartition(")")[2].split()[0] == "Z":
            break
        os.sched_yield()
        subprocess.run(["sleep", "0.01"], check=True)
    else:
        pytest.fail("the exporter goes on")


def test_phones_say_how_many_and_what_became_of_their_tasks(tmp_path: Path):
    registry = phones_registry(phones=60, counts=lambda: {"tasks": 7, "accepted": 5})
    with metrics_page(registry, targets_file=tmp_path / "phones.json", process="phones") as address:
        page = read(address)
    assert "atoll_phones 60.0" in page
    assert 'atoll_phone_tasks_total{outcome="accepted"} 5.0' in page
    with metrics_page(registry, targets_file=None, process="phones") as address:
        assert address == ""


def test_a_run_is_as_far_as_what_its_processes_have_written(tmp_path: Path):
    state, outcome = tmp_path, tmp_path / "outcome"
    outcome.mkdir()
    link = RegionLink(gateway_url="http://127.0.0.1:9", round_key_file="none")
    run = RunPlan(
        rounds=2, regions={"a": link, "b": link}, release_directory=str(tmp_path), outcome_directory=str(outcome),
        privacy=PrivacyPlan(ledger_file=str(tmp_path / "ledger"), population="all"),
    )  # fmt: skip
    plan = DeploymentPlan(run=run, state_directory=str(state), superlink_port=9, import_root="/", timeout_s=9.0)
    assert (steps(plan), steps_done(plan, since_s=0.0)) == (6, 0)
    for name in ("superlink.log", "supernode-a.log"):
        (state / name).touch()
    (outcome / PROGRESS_FILE).write_bytes(msgspec.json.encode({"round": 1}) + b"\n")
    assert steps_done(plan, since_s=0.0) == 3
    old_s = (state / "superlink.log").stat().st_mtime + 10
    assert steps_done(plan, since_s=old_s) == 0
