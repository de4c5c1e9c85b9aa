"""Flower's programs: what they are called with, and what they see of the machine. Nothing is started here."""

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from federation.flower.certificates import Credentials
from federation.flower.plan import RegionLink
from federation.flower.processes import ProcessError
from infra.plumbing.files import write_atomically
from infra.plumbing.http.tls import ClientTls

HOST = "127.0.0.1"
CONNECTION = "atoll"
"""What the SuperLink is called in the command line's configuration."""


def tools_directory() -> Path:
    """Where Flower's programs lie: beside the interpreter that runs this."""
    return Path(sys.executable).parent


def flower_environment(state: Path, import_root: str, inherited: Mapping[str, str]) -> dict[str, str]:
    """What Flower's processes see: no telemetry, no update check, no installer, our packages.

    Args:
        state: their home, and Flower's.
        import_root: folder that holds the `federation` package.
        inherited: of the process that starts them.
    """
    # Flower starts about fifteen interpreters a run; without byte code each one compiles its 40 MB of imports anew.
    kept = {name: value for name, value in inherited.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {
        "PATH": f"{tools_directory()}{os.pathsep}{inherited.get('PATH', os.defpath)}",
        "PYTHONPATH": import_root,
        "HOME": str(state),
        "FLWR_HOME": str(state / "flower"),
        "FLWR_TELEMETRY_ENABLED": "0",
        "FLWR_DISABLE_UPDATE_CHECK": "1",
        "FLWR_DISABLE_RUNTIME_DEPENDENCY_INSTALLATION": "1",
        "FLWR_SUPEREXEC_TASK_POLL_INTERVAL": "0.5",
        "RAY_USAGE_STATS_ENABLED": "0",
        "NO_PROXY": HOST,
        "no_proxy": HOST,
    }


def superlink_command(
    keys: Credentials | None, *, host: str = HOST, port: int, simulated: bool = False
) -> list[str]:  # fmt: skip
    """The SuperLink; with keys it speaks TLS only and lets in only SuperNodes that were registered."""
    secured = ["--insecure"]
    if keys is not None:
        secured = [
            "--ssl-certfile", str(keys.certificate), "--ssl-keyfile", str(keys.key), "--ssl-ca-certfile",
            str(keys.authority), "--enable-supernode-auth",
        ]  # fmt: skip
    if simulated:
        secured.append("--simulation")
    return [
        str(tools_directory() / "flower-superlink"), *secured, "--host", host, "--port", str(port),
        "--disable-runtime-dependency-installation",
    ]  # fmt: skip


def supernode_command(
    link: RegionLink, *, superlink: str, host: str = HOST, port: int, authority: Path | None = None,
    key: Path | None = None,
) -> list[str]:  # fmt: skip
    """The SuperNode of one region; its ClientApp learns the gateway and where its key lies, not the key.

    Args:
        link: the region's gateway.
        superlink: host:port of the SuperLink, where the link names no other way to it.
        host: where the ClientApp finds the SuperNode.
        port: the same.
        authority: whom it trusts; None: no TLS.
        key: by which the SuperLink knows it.
    """
    secured = ["--insecure"]
    if authority is not None:
        secured = ["--root-certificates", str(authority), "--auth-supernode-private-key", str(key)]
    return [
        str(tools_directory() / "flower-supernode"), *secured, "--superlink", link.superlink_address or superlink,
        "--host", host, "--port", str(port), "--node-config", _node_config(link),
    ]  # fmt: skip


def register_command(public_key: Path) -> list[str]:
    """Tells the SuperLink the key of a SuperNode that may come."""
    return [str(tools_directory() / "flwr"), "supernode", "register", str(public_key), CONNECTION]


def write_connection(state: Path, *, address: str, authority: Path | None) -> None:
    """Tell Flower's command line, whose home `state` is, where the SuperLink is and whom it trusts."""
    text = f'[superlink]\ndefault = "{CONNECTION}"\n\n[superlink.{CONNECTION}]\naddress = "{address}"\n'
    text += "insecure = true\n" if authority is None else f'root-certificates = "{authority}"\n'
    write_atomically(state / "flower" / "config.toml", text.encode())


def _node_config(link: RegionLink) -> str:
    config = f"gateway={_quoted(link.gateway_url)} round-key-file={_quoted(link.round_key_file)}"
    return config if link.gateway_tls is None else f"{config} {_tls_config(link.gateway_tls)}"


def _tls_config(tls: ClientTls) -> str:
    return (
        f"gateway-ca={_quoted(tls.ca_file)} gateway-names={_quoted(','.join(tls.server_names))}"
        f" certificate={_quoted(tls.certificate_file)} key={_quoted(tls.key_file)}"
    )


def _quoted(text: str) -> str:
    if '"' in text or "\n" in text:
        raise ProcessError("a path or address with quotes cannot be given to Flower.", fix="Choose another path.")
    return f'"{text}"'
