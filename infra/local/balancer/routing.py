"""Where a call goes: the client's region, then the order in which edges are tried. Pure."""

import hashlib
import ipaddress
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from infra.local.balancer.settings import AddressRange, BalancedRegion, BalancerSettings, EdgeAddress
from infra.plumbing.errors import SettingsError

CLIENT_REGION_HEADER = "Atoll-Client-Region"
OWNED_PATHS = ("/v1/recommendations/personal", "/v1/recommendations/session", "/v1/events", "/v1/privacy/")
"""Calls that belong to somebody."""
_Network = ipaddress.IPv4Network | ipaddress.IPv6Network


@dataclass(frozen=True, slots=True)
class Routes:
    """The settings, indexed."""

    regions: Mapping[str, BalancedRegion]
    first: str
    networks: tuple[tuple[_Network, str], ...]


def build_routes(settings: BalancerSettings) -> Routes:
    """Index the settings.

    Raises:
        SettingsError: a region is listed twice, has no edges, or is named but not listed; or a network is not one.
    """
    regions = {region.name: region for region in settings.regions}
    if len(regions) != len(settings.regions):
        raise SettingsError("a region is listed twice in the balancer's settings.", fix="Remove one.")
    for region in settings.regions:
        if not region.edges:
            raise SettingsError(f"region {region.name!r} has no edges.", fix="List at least one.")
        for name in region.nearest:
            _require_known(name, regions)
    return Routes(
        regions=regions,
        first=settings.regions[0].name,
        networks=tuple(_network(entry, regions) for entry in settings.addresses),
    )


def client_region(routes: Routes, named: str | None, address: str | None) -> str:
    """The region whose edges a client is sent to: the one it names, else by its address, else the first."""
    if named in routes.regions:
        return str(named)
    if routes.networks and address:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return routes.first
        for network, region in routes.networks:
            if parsed.version == network.version and parsed in network:
                return region
    return routes.first


def affinity(target: str, headers: Mapping[str, str]) -> str:
    """What a call is sent by, so that the same list is asked of the same edge.

    Calls that belong to somebody by the token or session, everything else by path and query.
    """
    if target.startswith(OWNED_PATHS):
        return headers.get("Authorization") or headers.get("Atoll-Session") or target
    return target


def attempt_order(
    routes: Routes,
    region: str,
    call: str,
    *,
    is_up: Callable[[str], bool],
    load: Callable[[str], int],
    load_factor: float,
    warmth: Callable[[str], float] = lambda _name: 1.0,
) -> list[EdgeAddress]:
    """Edges in the order in which they are tried.

    Healthy edges of the region, the one that the call hashes to first, then healthy edges of the other regions, nearest
    first, then the ones that are out: when everything seems dark, asking is better than refusing.

    Inside a region this is consistent hashing with bounded loads (Mirrokni et al. 2016, arXiv:1608.01350) over
    rendezvous ranks (Thaler and Ravishankar 1998): an edge that comes or goes moves only its own share of the calls,
    and none carries more than `load_factor` times the mean; what is over that goes to the next in rank.

    Args:
        routes: all regions.
        region: the client's.
        call: its affinity.
        is_up: by edge name.
        load: calls in flight, by edge name.
        load_factor: above 1; lower is more even, higher keeps more calls with their edge.
        warmth: share of its calls that an edge gets, by name; less than 1 for one that came back a moment ago. The
            calls it gets again first are always the same ones, so that no caller goes to and fro.
    """
    ordered = [
        edge
        for name in (region, *routes.regions[region].nearest)
        for edge in _warm_first(_by_rank(routes.regions[name].edges, call, is_up, load, load_factor), call, warmth)
    ]
    return sorted(ordered, key=lambda edge: not is_up(edge.name))


def _by_rank(
    edges: Sequence[EdgeAddress], call: str, is_up: Callable[[str], bool], load: Callable[[str], int], factor: float
) -> list[EdgeAddress]:
    ranked = sorted(edges, key=lambda edge: _rank(edge.name, call))
    loads = [load(edge.name) for edge in edges if is_up(edge.name)]
    if len(loads) < 2:
        return ranked
    most = math.ceil(factor * (sum(loads) + 1) / len(loads))
    return sorted(ranked, key=lambda edge: load(edge.name) >= most)


def _warm_first(ranked: list[EdgeAddress], call: str, warmth: Callable[[str], float]) -> list[EdgeAddress]:
    return sorted(ranked, key=lambda edge: (share := warmth(edge.name)) < 1.0 and _draw(edge.name, call) >= share)


def _draw(edge: str, call: str) -> float:
    """From 0 to 1, the same for the same call and edge, and another one than what ranks them."""
    return int.from_bytes(_rank(edge, f"{call}\0slow start")) / 2.0**64


def _rank(edge: str, call: str) -> bytes:
    return hashlib.blake2b(call.encode("utf-8", "surrogateescape"), key=edge.encode()[:64], digest_size=8).digest()


def _network(entry: AddressRange, regions: Mapping[str, BalancedRegion]) -> tuple[_Network, str]:
    _require_known(entry.region, regions)
    try:
        return ipaddress.ip_network(entry.network), entry.region
    except ValueError as error:
        raise SettingsError(f"{entry.network!r} is not a network: {error}.", fix="Use CIDR: 192.0.2.0/24.") from error


def _require_known(name: str, regions: Mapping[str, BalancedRegion]) -> None:
    if name not in regions:
        raise SettingsError(f"the balancer's settings name an unknown region {name!r}.", fix="List it in regions.")
