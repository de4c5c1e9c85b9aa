"""HAProxy's control socket: which edges it sends calls to, and certificates that it takes while it runs.

Management guide, "Unix Socket commands": one command a connection, answered in full and then closed.
"""

import csv
import socket
from collections.abc import Mapping
from pathlib import Path

from infra.local.haproxy import server_name
from infra.plumbing.errors import AtollError

_ANSWER_S = 2.0
_ANSWER_BYTES_MAX = 1 << 20
_SERVERS = 4
"""The kind of row that `show stat` is asked for: servers, neither frontends nor backends."""
_UP = "UP"
"""`UP 1/2` is a server whose last probe failed; it is not sure to stay."""


class HaproxyControlError(AtollError):
    """HAProxy does not take a command."""


class CertificateNotTakenError(AtollError):
    """A process that runs still shows its old certificate."""


def ask_haproxy(control: Path, command: str) -> str:
    """What HAProxy answers to a command.

    Args:
        control: its control socket.
        command: one line, or a line with a payload as the management guide has it; ends with a line feed.

    Raises:
        HaproxyControlError: it does not answer, or with more than a mebibyte.
    """
    answer = bytearray()
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(_ANSWER_S)
            connection.connect(str(control))
            connection.sendall(command.encode())
            while chunk := connection.recv(64 << 10):
                answer += chunk
                if len(answer) > _ANSWER_BYTES_MAX:
                    raise HaproxyControlError("HAProxy says more than it was asked.")
    except OSError as error:
        raise HaproxyControlError(
            f"HAProxy does not take commands at {control}: {error}.",
            fix="Is it running? A world that was started before it had this socket gets it at its next `world up`.",
        ) from error
    return answer.decode(errors="replace")


def takes_calls(control: Path, edge: str) -> bool:
    """Whether HAProxy sends an edge its own region's callers: its last probe went well, and nothing holds it back.

    Args:
        control: HAProxy's control socket.
        edge: by its name, `us-east/edge-1`.

    Raises:
        HaproxyControlError: it does not answer, or knows no such edge.
    """
    region = edge.partition("/")[0]
    rows = ask_haproxy(control, f"show stat {region} {_SERVERS} -1\n").removeprefix("# ").splitlines()
    for row in csv.DictReader(rows):
        if (row.get("pxname"), row.get("svname")) == (region, server_name(edge)):
            return row.get("status") == _UP
    raise HaproxyControlError(
        f"HAProxy knows no edge {edge}: {' '.join(rows)[:200]}", fix="Start the world anew: `world down`, `world up`."
    )


def hand_to_haproxy(control: Path, file: Path) -> None:
    """Let HAProxy use a certificate that was replaced (management guide: "set ssl cert", "commit ssl cert").

    Raises:
        CertificateNotTakenError: it does not answer, or refuses.
    """
    _hand_over(control, "cert", file)


def hand_authorities_to_haproxy(control: Path, file: Path) -> None:
    """The same for the file of authorities that it trusts (management guide: "set ssl ca-file", "commit ssl ca-file").

    Raises:
        CertificateNotTakenError: it does not answer, or refuses.
    """
    _hand_over(control, "ca-file", file)


def _hand_over(control: Path, kind: str, file: Path) -> None:
    commands: Mapping[str, str] = {
        f"set ssl {kind} {file} <<\n{file.read_text().strip()}\n\n": "transaction",
        f"commit ssl {kind} {file}\n": "success",
    }
    for command, expected in commands.items():
        try:
            answer = ask_haproxy(control, command)
        except HaproxyControlError as error:
            raise CertificateNotTakenError(error.message, fix=error.fix) from error
        if expected not in answer.lower():
            raise CertificateNotTakenError(f"HAProxy refuses the {kind}: {answer[:300]}")
