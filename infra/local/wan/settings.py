"""Settings of the link proxies."""

from typing import Annotated

import msgspec

from infra.local.running import LocalSettings
from infra.local.wan.securing import LinkTls
from infra.plumbing.http.tls import ListenTls

LINKS_MAX = 512


class LinkSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One direction of calling: `origin` connects to `port`, the proxy connects on to the target."""

    origin: str
    destination: str
    port: int
    target_host: str = "127.0.0.1"
    target_port: int = 0
    """0: not known yet; connections are closed at once until somebody sets it."""

    tls: LinkTls | None = None
    """None: bytes are passed on as they come, TLS among them."""
    captured: bool = True
    """Whether what crosses is kept: what stays inside a region is nobody's business, not even the scan's."""

    @property
    def name(self) -> str:
        """`us-east--us-west`; also the name of the capture file."""
        return f"{self.origin}--{self.destination}"


class WanSettings(LocalSettings, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One file for all links."""

    host: str = "127.0.0.1"
    port: int
    """For `/metrics` and `/health`."""
    tls: ListenTls | None = None
    """Of that port."""
    control_socket: str
    capture_directory: str
    capture_bytes_max: int = 256 << 20
    """Per link; what crosses after that is counted, not kept."""
    connections_max: Annotated[int, msgspec.Meta(ge=1)] = 512
    """Per link; further connections are refused and counted."""
    links: Annotated[tuple[LinkSettings, ...], msgspec.Meta(max_length=LINKS_MAX)]
