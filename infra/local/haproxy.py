"""HAProxy in front of the same world: its configuration, and finding the program.

Written for HAProxy 2.4 and up (configuration manual: "retry-on", "option redispatch", "http-request return"). What
the embedded balancer does and this does not: a span of its own (the edge starts the trace) and `Via`.
"""

import shutil
from pathlib import Path

from infra.local.balancer.routing import CLIENT_REGION_HEADER, OWNED_PATHS, build_routes
from infra.local.balancer.settings import BalancedRegion, BalancerSettings
from infra.plumbing.errors import AtollError, SettingsError


class HaproxyMissingError(AtollError):
    """The world asks for HAProxy and it is not on this machine."""


def find_haproxy(search_path: str | None = None) -> str:
    """The path of the program.

    Raises:
        HaproxyMissingError: it is not installed.
    """
    # Debian puts it where ordinary users do not look.
    found = shutil.which("haproxy", path=search_path) or shutil.which("haproxy", path=search_path or "/usr/sbin")
    if found is None:
        raise HaproxyMissingError(
            "HAProxy is not installed.",
            fix="Install it (Debian: `apt-get install haproxy`), or use the embedded balancer.",
        )
    return found


def render_haproxy(settings: BalancerSettings, *, control: Path) -> str:
    """The configuration file; `control` is the socket at which it takes commands (`infra.local.haproxy_control`).

    Raises:
        SettingsError: the settings contradict themselves, or hold a name or network that HAProxy could misread.
    """
    build_routes(settings)
    for name in (region.name for region in settings.regions):
        if not name.replace("-", "").isalnum():
            raise SettingsError(f"HAProxy cannot take the region name {name!r}.", fix="Use letters, digits, hyphens.")
    lines = [*_global(settings, control), *_frontend(settings)]
    regions = {region.name: region for region in settings.regions}
    for region in settings.regions:
        lines += _backend(region, regions, settings)
    return "\n".join(lines) + "\n"


def _global(settings: BalancerSettings, control: Path) -> list[str]:
    return [
        "# Written by `./atoll world up`; changes are lost at the next start.",
        "global",
        "    maxconn 4096",
        f"    tune.bufsize {_buffer_bytes(settings)}",
        "    stats timeout 5s",
        f"    stats socket {control} mode 600 level admin",
        "",
        "defaults",
        "    mode http",
        f"    timeout connect {_ms(settings.connect_timeout_s)}",
        "    timeout client 30s",
        "    timeout http-request 10s",
        "    timeout http-keep-alive 30s",
        f"    timeout server {_ms(settings.answer_timeout_s)}",
        "    timeout queue 1s",
        "    option http-keep-alive",
        "    http-reuse safe",
        "    option redispatch 1",
        f"    retries {settings.attempts_max - 1}",
        "    # An answer that says 503 may be asked for elsewhere; events count once by their id.",
        "    retry-on conn-failure empty-response junk-response response-timeout 502 503 504",
        "",
    ]


def _frontend(settings: BalancerSettings) -> list[str]:
    lines = [
        "frontend calls",
        f"    bind {settings.host}:{settings.port}{_bind_tls(settings)}",
        *(["    http-request deny if { path /metrics } !{ ssl_c_used }"] if _is_mutual(settings) else []),
        "    unique-id-format %[uuid()]",
        "    http-request set-header Atoll-Request-Id %[unique-id] unless { req.hdr(Atoll-Request-Id) -m found }",
        f"    http-request deny deny_status 413 if {{ req.hdr_val(content-length) gt {settings.request_bytes_max} }}",
        "    http-request use-service prometheus-exporter if { path /metrics }",
        '    http-request return status 200 content-type application/json string "{\\"status\\":\\"live\\"}"'
        " if { path /health/live }",
        f"    acl some_edge {' '.join(['nbsrv(' + settings.regions[0].name + ')', 'gt', '0'])}",
        *(f"    acl some_edge nbsrv({region.name}) gt 0" for region in settings.regions[1:]),
        '    http-request return status 200 content-type application/json string "{\\"status\\":\\"ready\\"}"'
        " if { path /health/ready } some_edge",
        "    http-request return status 503 content-type application/json string"
        ' "{\\"status\\":\\"waiting\\",\\"for\\":\\"an edge that answers\\"}" if { path /health/ready }',
    ]
    first = settings.regions[0].name
    lines.append(f"    http-request set-var(txn.region) str({first})")
    # The first matching network wins, so they are tried from the last to the first, each one overwriting.
    for entry in reversed(settings.addresses):
        lines.append(f"    http-request set-var(txn.region) str({entry.region}) if {{ src {entry.network} }}")  # noqa: PERF401
    for region in settings.regions:
        lines.append(  # noqa: PERF401
            f"    http-request set-var(txn.region) str({region.name})"
            f" if {{ req.hdr({CLIENT_REGION_HEADER}) -m str {region.name} }}"
        )
    return [
        *lines,
        "    http-request set-var(txn.affinity) url",
        f"    acl owned path_beg {' '.join(OWNED_PATHS)}",
        "    http-request set-var(txn.affinity) req.hdr(Atoll-Session) if owned { req.hdr(Atoll-Session) -m found }",
        "    http-request set-var(txn.affinity) req.hdr(Authorization) if owned { req.hdr(Authorization) -m found }",
        f"    http-request set-header {CLIENT_REGION_HEADER} %[var(txn.region)]",
        "    use_backend %[var(txn.region)]",
        "",
    ]


def _backend(region: BalancedRegion, regions: dict[str, BalancedRegion], settings: BalancerSettings) -> list[str]:
    repeatable = " ".join(settings.repeatable_posts)
    interval = _ms(settings.probe_interval_s)
    lines = [
        f"backend {region.name}",
        "    # The edge that holds the list is asked again, and none carries much more than its share.",
        "    balance hash var(txn.affinity)",
        "    hash-type consistent",
        f"    hash-balance-factor {round(100 * settings.load_factor)}",
        "    option httpchk GET /health/ready",
        "    http-check expect status 200",
        f"    timeout check {_ms(settings.probe_timeout_s)}",
        f"    http-request disable-l7-retry if METH_POST !{{ path {repeatable} }}",
        f"    default-server check inter {interval} fastinter 100ms downinter {interval} fall 2 rise 1"
        " observe layer4 error-limit 1 on-error mark-down"
        f" maxconn {settings.connections_per_edge_max}"
        + (f" slowstart {_ms(settings.slow_start_s)}" if settings.slow_start_s else ""),
    ]
    tls = _server_tls(settings)
    lines += [f"    server {server_name(edge.name)} {edge.host}:{edge.port}{tls}" for edge in region.edges]
    for other in region.nearest:
        lines += [
            f"    server {server_name(edge.name)} {edge.host}:{edge.port} backup{tls}" for edge in regions[other].edges
        ]
    return [*lines, ""]


def _is_mutual(settings: BalancerSettings) -> bool:
    return settings.tls is not None and bool(settings.tls.client_ca_file)


def _bind_tls(settings: BalancerSettings) -> str:
    """Callers need no certificate; who shows one of ours may see `/metrics`."""
    if settings.tls is None:
        return ""
    shown = f" ca-file {settings.tls.client_ca_file} verify optional" if _is_mutual(settings) else ""
    return f" ssl crt {settings.tls.certificate_file} ssl-min-ver TLSv1.2{shown}"


def _server_tls(settings: BalancerSettings) -> str:
    if settings.edges_tls is None:
        return ""
    tls = settings.edges_tls
    # Names stand in certificates as URIs, which HAProxy does not check: the address and the authority must do.
    return f" ssl verify required ca-file {tls.ca_file} crt {tls.certificate_file} ssl-min-ver TLSv1.2 check-ssl"


def server_name(edge: str) -> str:
    """What HAProxy calls an edge: it takes no slash in a name."""
    return edge.replace("/", ".")


def _ms(seconds: float) -> str:
    return f"{round(seconds * 1000)}ms"


def _buffer_bytes(settings: BalancerSettings) -> int:
    """A call can only be repeated from HAProxy's buffer: it must hold an ordinary batch of events."""
    return min(settings.request_bytes_max, 256 << 10)
