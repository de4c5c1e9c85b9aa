"""The rivals of the edge as caches in front of the same origin: nginx, Varnish, and plain aiohttp."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from infra.bench.serving.edges import Bed
from infra.bench.serving.processes import HOST, Server, free_port, running
from infra.local.packages import ensure_debian_package
from infra.local.tiers import source_root, tier_python

NGINX = """
worker_processes 1;
daemon off;
master_process off;
pid {work}/nginx.pid;
error_log {work}/nginx.error.log error;
events {{ worker_connections 16384; multi_accept on; }}
http {{
  access_log off;
  sendfile on;
  tcp_nopush on;
  tcp_nodelay on;
  keepalive_timeout 300s;
  keepalive_requests 1000000000;
  server_tokens off;
  types {{ }}
  default_type application/json;
  client_body_temp_path {work}/nginx-body;
  proxy_temp_path {work}/nginx-temp;
  fastcgi_temp_path {work}/nginx-fastcgi;
  uwsgi_temp_path {work}/nginx-uwsgi;
  scgi_temp_path {work}/nginx-scgi;
  open_file_cache max=100000 inactive=600s;
  open_file_cache_valid 600s;
  open_file_cache_min_uses 1;
  proxy_cache_path {cache} levels=1:2 keys_zone=lists:64m max_size=1g inactive=6h use_temp_path=off;
  server {{
    listen {host}:{port} reuseport backlog=4096;
    location = /health/ready {{ return 200; }}
    location / {{
      proxy_pass {origin};
      proxy_http_version 1.1;
      proxy_set_header Connection "";
      proxy_set_header If-None-Match "";
      proxy_cache lists;
      proxy_cache_key "$request_uri$http_authorization";
      proxy_cache_valid 200 6h;
      proxy_ignore_headers Cache-Control Vary Expires Set-Cookie;
      proxy_cache_methods GET;
    }}
  }}
}}
"""
"""`proxy_cache` with `open_file_cache`, no log, one worker, cache files in memory where the machine has /dev/shm."""

VARNISH = """
vcl 4.1;
backend origin {{ .host = "{host}"; .port = "{origin_port}"; }}
sub vcl_recv {{
  if (req.url == "/health/ready") {{ return (synth(200)); }}
  return (hash);
}}
sub vcl_hash {{ hash_data(req.http.Authorization); }}
sub vcl_backend_response {{
  set beresp.ttl = 6h;
  unset beresp.http.Vary;
  unset beresp.http.Cache-Control;
  set beresp.uncacheable = false;
  return (deliver);
}}
"""


@contextlib.contextmanager
def running_nginx(bed: Bed, origin: Server) -> Iterator[Server]:
    """Nginx, one worker."""
    program = ensure_debian_package("nginx-light", program="nginx")
    port = free_port()
    cache = bed.work / "nginx-cache"
    cache.mkdir(exist_ok=True)
    text = NGINX.format(work=bed.work, cache=cache, host=HOST, port=port, origin=origin.base)
    path = bed.work / "nginx.conf"
    path.write_text(text)
    command = [program, "-p", str(bed.work), "-c", str(path)]
    with running(
        "nginx", command, port=port, core=bed.cores.server, log=bed.work / "nginx.out", clock=bed.clock
    ) as server:
        yield server


@contextlib.contextmanager
def running_varnish(bed: Bed, origin: Server) -> Iterator[Server]:
    """Varnish, its threads on one core."""
    program = ensure_debian_package("varnish", program="varnishd")
    port = free_port()
    path = bed.work / "rival.vcl"
    path.write_text(VARNISH.format(host=HOST, origin_port=origin.port))
    command = [
        program, "-j", "none", "-F", "-a", f"{HOST}:{port}", "-f", str(path), "-n", str(bed.work / "varnish"),
        "-s", "malloc,512m", "-p", "thread_pools=1",
    ]  # fmt: skip
    with running(
        "varnish", command, port=port, core=bed.cores.server, log=bed.work / "varnish.out", clock=bed.clock
    ) as server:
        yield server


@contextlib.contextmanager
def running_plain(bed: Bed, origin: Server) -> Iterator[Server]:
    """A plain aiohttp `web.Application` on uvloop."""
    port = free_port()
    python = tier_python("bench", bed.environments)
    command = [python, "-m", "infra.bench.serving.plain", str(port), origin.base]
    with running(
        "aiohttp", command, port=port, core=bed.cores.server, log=Path(bed.work / "plain.out"), clock=bed.clock,
        cwd=source_root(),
    ) as server:  # fmt: skip
        yield server
