"""`python -m federation.flower.standing superlink|supernode --settings FILE`: Flower's servers as processes of a world.

What is to be done first is done here; then this process becomes Flower's program (exec), so that whoever supervises it
supervises that, and no second interpreter stands beside it.

A SuperLink keeps runs and registrations in memory: one that was killed knows nobody when it is back. Its SuperNodes are
refused then (401), end, and are started again by their supervisor. Each start of a SuperNode makes a key of its own and
registers it: until heartbeats run out (a minute) the SuperLink takes a killed one's key for online and refuses it.
"""

import argparse
import os
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import federation
from federation.flower.certificates import STANDING_LIFE, Credentials, make_credentials, make_node_keys
from federation.flower.plan import RegionLink
from federation.flower.processes import ProcessError
from federation.flower.programs import (
    flower_environment,
    register_command,
    superlink_command,
    supernode_command,
    write_connection,
)
from federation.settings import SuperlinkSettings, SupernodeSettings
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.environment import environment_with
from infra.plumbing.errors import AtollError
from infra.plumbing.settings import load_settings

SUPERLINK_WITHIN_S = 60.0
REGISTERED_WITHIN_S = 60.0
_LOOK_S = 0.2


def prepare_superlink(settings: SuperlinkSettings, *, clock: Clock) -> list[str]:
    """Make what is not there yet of its credentials; returns the program to become.

    They stay the same as long as the folder does: the SuperNodes trust this authority until they end.
    """
    keys = Credentials(Path(settings.credentials_directory))
    if not keys.authority.exists():
        make_credentials(keys.directory, host=settings.host, regions=(), clock=clock, life=STANDING_LIFE)
    return superlink_command(keys, host=settings.host, port=settings.port)


def prepare_supernode(settings: SupernodeSettings, *, environment: Mapping[str, str], clock: Clock) -> list[str]:
    """Make a key for this start and tell the SuperLink; returns the program to become.

    Raises:
        ProcessError: the SuperLink does not come up, or does not take the key.
    """
    state = Path(settings.state_directory)
    keys, authority = Credentials(state), Credentials(Path(settings.credentials_directory)).authority
    make_node_keys(keys, settings.region)
    await_port(settings.registry, within_s=SUPERLINK_WITHIN_S, clock=clock)
    write_connection(state, address=settings.registry, authority=authority)
    _register(register_command(keys.node_public(settings.region)), environment, state)
    link = RegionLink(
        gateway_url=settings.gateway_url, gateway_tls=settings.gateway_tls, round_key_file=settings.round_key_file
    )
    return supernode_command(
        link, superlink=settings.superlink, host=settings.host, port=settings.port, authority=authority,
        key=keys.node_key(settings.region),
    )  # fmt: skip


def await_port(address: str, *, within_s: float, clock: Clock) -> None:
    """Wait until somebody accepts connections at host:port.

    Raises:
        ProcessError: nobody does within `within_s`.
    """
    host, _, port = address.rpartition(":")
    ends_s = clock.monotonic_s() + within_s
    while True:
        with socket.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((host, int(port))) == 0:
                return
        if clock.monotonic_s() > ends_s:
            raise ProcessError(f"the SuperLink at {address} does not answer.", fix="See `./atoll world status`.")
        time.sleep(_LOOK_S)


def _register(command: Sequence[str], environment: Mapping[str, str], directory: Path) -> None:
    try:
        done = subprocess.run(
            list(command), env=dict(environment), cwd=directory, stdin=subprocess.DEVNULL, check=False,
            timeout=REGISTERED_WITHIN_S,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise ProcessError("a SuperNode could not be registered in time.", fix="See its output above.") from error
    if done.returncode:
        raise ProcessError(f"a SuperNode could not be registered ({done.returncode}).", fix="See its output above.")


def main(words: list[str]) -> None:
    """Become Flower's program; ends by itself only where that could not be."""
    parser = argparse.ArgumentParser(prog="python -m federation.flower.standing", description=__doc__)
    parser.add_argument("what", choices=("superlink", "supernode"))
    parser.add_argument("--settings", type=Path, required=True, help="SuperlinkSettings or SupernodeSettings, JSON")
    given = parser.parse_args(words)
    clock = SystemClock()
    try:
        if given.what == "superlink":
            link = load_settings(given.settings, SuperlinkSettings)
            environment = _home(link.state_directory)
            command = prepare_superlink(link, clock=clock)
        else:
            node = load_settings(given.settings, SupernodeSettings)
            environment = _home(node.state_directory)
            command = prepare_supernode(node, environment=environment, clock=clock)
    except AtollError as error:
        sys.exit(str(error))  # to the output that whoever supervises this keeps
    os.chdir(environment["HOME"])
    os.execve(command[0], command, environment)


def _home(directory: str) -> dict[str, str]:
    """What Flower's programs see, at home in `directory`, which is made."""
    Path(directory).mkdir(mode=0o700, parents=True, exist_ok=True)
    root = str(Path(federation.__file__).resolve().parents[1])
    return flower_environment(Path(directory), root, environment_with({}))


if __name__ == "__main__":
    main(sys.argv[1:])
