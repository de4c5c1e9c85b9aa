"""A SuperLink and SuperNodes that stand: what is made before each becomes Flower's program, and runs over them."""

import datetime
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from flwr.app import Context, RecordDict

from federation.flower import standing, supervisor
from federation.flower.plan import DeploymentPlan, PrivacyPlan, RegionLink, RunPlan, StandingLink
from federation.flower.processes import ProcessError
from federation.flower.server_app import main as server_app_main
from federation.flower.watching import steps, steps_done
from federation.settings import SuperlinkSettings, SupernodeSettings
from infra.plumbing.clock import ManualClock, SystemClock


@pytest.fixture
def listener() -> Iterator[str]:
    """Somebody at the SuperLink's port."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        yield f"127.0.0.1:{listening.getsockname()[1]}"


def _superlink(tmp_path: Path) -> SuperlinkSettings:
    return SuperlinkSettings(
        port=7001, state_directory=str(tmp_path / "superlink"), credentials_directory=str(tmp_path / "credentials")
    )


def _supernode(tmp_path: Path, registry: str) -> SupernodeSettings:
    return SupernodeSettings(
        region="us-east", port=7002, superlink="127.0.0.1:7003", registry=registry, gateway_url="http://127.0.0.1:7004",
        round_key_file="/k", state_directory=str(tmp_path / "us-east"),
        credentials_directory=str(tmp_path / "credentials"),
    )  # fmt: skip


def test_a_superlink_keeps_its_certificate_over_restarts_and_is_good_for_a_year(tmp_path: Path) -> None:
    settings = _superlink(tmp_path)
    command = standing.prepare_superlink(settings, clock=SystemClock())
    made = (tmp_path / "credentials" / "superlink.pem").read_bytes()
    assert command[command.index("--ssl-certfile") + 1] == str(tmp_path / "credentials" / "superlink.pem")
    assert "--enable-supernode-auth" in command
    assert "--insecure" not in command
    assert standing.prepare_superlink(settings, clock=SystemClock()) == command
    assert (tmp_path / "credentials" / "superlink.pem").read_bytes() == made
    ends = x509.load_pem_x509_certificate(made).not_valid_after_utc
    assert ends - datetime.datetime.now(datetime.UTC) > datetime.timedelta(days=365)
    assert not list((tmp_path / "credentials").glob("supernode-*"))


def test_each_start_of_a_supernode_has_a_key_of_its_own_that_was_registered(
    tmp_path: Path, listener: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, registered = _supernode(tmp_path, listener), list[tuple[str, bytes]]()

    def register(command: list[str], environment: dict[str, str], directory: Path) -> None:
        configured = (directory / "flower" / "config.toml").read_text()
        assert f'address = "{listener}"' in configured
        assert f'root-certificates = "{tmp_path / "credentials" / "authority.pem"}"' in configured
        registered.append((command[2], Path(command[3]).read_bytes()))

    monkeypatch.setattr(standing, "_register", register)
    for _ in range(2):
        command = standing.prepare_supernode(settings, environment={}, clock=SystemClock())
    assert command[command.index("--superlink") + 1] == "127.0.0.1:7003"  # over the link
    key = Path(command[command.index("--auth-supernode-private-key") + 1])
    assert key.stat().st_mode & 0o077 == 0
    assert [verb for verb, _key in registered] == ["register", "register"]
    assert len({public for _verb, public in registered}) == 2


def test_a_superlink_that_is_not_there_or_refuses_is_said(
    tmp_path: Path, listener: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        nobody = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ProcessError, match="does not answer"):
            standing.await_port(nobody, within_s=-1.0, clock=ManualClock())
    monkeypatch.setattr(standing, "register_command", lambda _key: [sys.executable, "-c", "raise SystemExit(3)"])
    with pytest.raises(ProcessError, match=r"could not be registered \(3\)"):
        standing.prepare_supernode(_supernode(tmp_path, listener), environment={}, clock=SystemClock())


def test_the_program_is_become_with_its_own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    became: list[tuple[str, list[str], dict[str, str]]] = []
    monkeypatch.setattr(os, "execve", lambda *given: became.append(given))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "s.json").write_bytes(msgspec.json.encode(_superlink(tmp_path)))
    standing.main(["superlink", "--settings", str(tmp_path / "s.json")])
    ((program, command, environment),) = became
    assert program == command[0]
    assert program.endswith("/flower-superlink")
    assert environment["HOME"] == str(tmp_path / "superlink") == os.getcwd()
    assert environment["FLWR_TELEMETRY_ENABLED"] == "0"
    monkeypatch.setattr(standing, "SUPERLINK_WITHIN_S", -1.0)
    (tmp_path / "n.json").write_bytes(msgspec.json.encode(_supernode(tmp_path, "127.0.0.1:1")))
    with pytest.raises(SystemExit, match="does not answer"):
        standing.main(["supernode", "--settings", str(tmp_path / "n.json")])


def _deployment(tmp_path: Path, address: str) -> DeploymentPlan:
    run = RunPlan(
        rounds=2, regions={"r1": RegionLink(gateway_url="http://127.0.0.1:1", round_key_file="k")},
        release_directory="r", outcome_directory=str(tmp_path / "outcome"),
        privacy=PrivacyPlan(ledger_file=str(tmp_path / "ledger"), population="p"),
    )  # fmt: skip
    return DeploymentPlan(
        run=run, state_directory=str(tmp_path), superlink_port=0, import_root="/root-of-imports", timeout_s=20.0,
        standing=StandingLink(address=address, authority="/ca.pem"),
    )  # fmt: skip


def test_a_run_over_what_stands_starts_the_run_and_nothing_else(
    tmp_path: Path, listener: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, started = _deployment(tmp_path, listener), list[list[str]]()

    class Done:
        def poll(self) -> int | None:
            return 0

    def start(command: list[str], **_options: object) -> Done:
        started.append(command)
        if command[1] == "run":
            (tmp_path / "outcome" / "outcome.json").write_text("{}")
        return Done()

    monkeypatch.setattr(supervisor, "start", start)
    supervisor._run(plan, {}, SystemClock())
    exporter, submitted = started
    assert (exporter[2], submitted[1]) == ("federation.flower.exporter", "run")
    configured = (tmp_path / "flower" / "config.toml").read_text()
    assert f'address = "{listener}"' in configured
    assert 'root-certificates = "/ca.pem"' in configured
    assert not (tmp_path / "credentials").exists()
    assert (steps(plan), steps_done(plan, since_s=0.0)) == (3, 1)


def test_a_run_that_is_called_back_leaves_no_server_app_at_the_superlink(tmp_path: Path) -> None:
    plan = _deployment(tmp_path, "127.0.0.1:1")
    supervisor._prepare(plan, tmp_path, None)
    words = [sys.executable, "-c", "import time; print(flush=True); time.sleep(60)"]
    family = [subprocess.Popen([*words, name], stdout=subprocess.PIPE) for name in ("flwr-serverapp", "another")]
    try:
        for process, survives in zip(family, (False, True), strict=True):
            assert process.stdout is not None
            process.stdout.readline()
            (tmp_path / "outcome" / "server-app.pid").write_text(str(process.pid))
            supervisor._recall(plan)
            if not survives:
                assert process.wait(20) == -signal.SIGKILL
        assert family[1].poll() is None  # a number that is another process's by now
    finally:
        for process in family:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
    assert not (tmp_path / "run-plan.json").exists()


def test_a_server_app_whose_plan_went_in_that_moment_does_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = _deployment(tmp_path, "127.0.0.1:1")
    supervisor._prepare(plan, tmp_path, None)
    file = tmp_path / "run-plan.json"
    context = Context(run_id=1, node_id=1, node_config={}, state=RecordDict(), run_config={"plan": str(file)})

    def written_and_gone(_path: Path, _content: bytes) -> None:
        file.unlink()

    monkeypatch.setattr("federation.flower.server_app.write_atomically", written_and_gone)
    server_app_main(None, context)
    assert not (tmp_path / "outcome" / "failure.txt").exists()
