"""A world of tiny fake processes, and what tests need to watch it."""

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest

from infra.local.configuration import WorldConfiguration, default_configuration
from infra.local.layout import Layout, layout_of
from infra.local.ports import assign_ports, is_port_free
from infra.local.records import Part, ProbeKind, ProcessPlan, RestartPolicy, WorldRecord
from infra.local.tiers import source_root
from infra.local.world import stop_world

FAKE_PROCESS = """
import http.server, os, subprocess, sys
port, marker = int(sys.argv[1]), sys.argv[2]
child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])
if marker != '-' and not os.path.exists(marker):
    open(marker, 'w').close()
    sys.exit('first start fails')
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header('Content-Length', '2'); self.end_headers(); self.wfile.write(b'ok')
    def log_message(self, *_): pass
http.server.ThreadingHTTPServer(('127.0.0.1', port), Handler).serve_forever()
"""


@pytest.fixture(autouse=True)
def run_folders_go(tmp_path: Path) -> Iterator[None]:
    """Folders for sockets lie outside pytest's own; a world that was prepared and never started leaves its one."""
    yield
    for state in tmp_path.iterdir():
        shutil.rmtree(layout_of(state).run, ignore_errors=True)


@pytest.fixture
def layout(tmp_path: Path) -> Iterator[Layout]:
    made = layout_of(tmp_path / "world")
    made.create()
    yield made
    stop_world(made.state)


@pytest.fixture
def make_record(layout: Layout) -> Callable[..., WorldRecord]:
    """A record of two regions with an edge and an API each; `marker`: the first process fails at its first start."""

    def make(
        *, marker: str = "-", command: tuple[str, ...] | None = None, balancer: str = "embedded"
    ) -> WorldRecord:  # fmt: skip
        names = [f"{region}/{part}" for region in ("east", "west") for part in ("api", "edge-1")]
        ports = assign_ports(
            [*names, "balancer", "repository"],
            configured=default_configuration().ports,
            previous={},
            seed=str(layout.state) + str(os.getpid()),
            is_free=lambda port: is_port_free("127.0.0.1", port),
        )
        configuration = WorldConfiguration(
            regions=tuple(
                type(region)(name=name, edges=1)
                for region, name in zip(default_configuration().regions, ("east", "west"), strict=False)
            ),
            start_timeout_s=30.0,
            balancer=balancer,
        )
        processes = tuple(
            ProcessPlan(
                name=name,
                part=Part.API if name.endswith("api") else Part.EDGE,
                region=name.split("/")[0],
                stage=0 if name.endswith("api") else 1,
                probe=ProbeKind.HTTP,
                address=f"127.0.0.1:{ports[name]}",
                command=command
                or (sys.executable, "-c", FAKE_PROCESS, str(ports[name]), marker if name == names[0] else "-"),
            )
            for name in names
        )
        record = WorldRecord(
            configuration=configuration, ports=ports, processes=processes, working_directory=str(source_root()),
            restart=RestartPolicy(first_delay_s=0.05, crashes_max=2), eased_s=0.2,
        )  # fmt: skip
        layout.world.write_bytes(msgspec.json.encode(record))
        return record

    return make
