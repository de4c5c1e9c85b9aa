"""Certificates of real servers: each server has an authority of its own, which signs it, its clients and nobody else.

Cassandra and Kafka let in whoever shows a certificate of the authority that they trust, and look at no name. Were that
the world's, an edge, the gateway of phones or another region could open a region's store. So the folder of a server's
authority (`infra.local.servers.plans.server_authority`) holds, beside the server's certificate, one for each region
that may call it: Cassandra is called by its own region only, Kafka by all regions that have a topic there.
"""

import datetime
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from infra.local.certificates import WorldAuthority
from infra.local.records import Part, ProcessPlan
from infra.local.servers.plans import ServerPlan, secured, server_authority
from infra.plumbing.clock import Clock

LIFE = datetime.timedelta(days=398)
"""A server reads its certificate when it starts, Kafka only then: it must not run out under one that runs for long."""


def region_client(region: str) -> str:
    """Name in the certificate by which a region's API and worker call its servers."""
    return f"{region}/api"


def ensure_certificates(
    tls: Path, plans: Sequence[ServerPlan], clients: Mapping[str, Iterable[str]], *, host: str, clock: Clock
) -> None:  # fmt: skip
    """Make the certificates of servers and of their clients that are not there or near their end.

    Args:
        tls: the folder that the authorities' folders lie in.
        plans: of servers; those without TLS are passed over.
        clients: names of who may call a server, by the server's name.
        host: the address of the clients.
        clock: for the lives of certificates.

    Raises:
        SettingsError: an authority's files cannot be used.
    """
    for name, at in secured(plans).items():
        authority = WorldAuthority(server_authority(tls, name), host=host, clock=clock, life=LIFE)
        authority.ensure([name, *clients[name]], hosts={name: at})


def renew_certificates(
    tls: Path, processes: Iterable[ProcessPlan], regions: Sequence[str], *, host: str, clock: Clock
) -> int:  # fmt: skip
    """New keys and certificates for who calls the servers of a running world, and for Cassandra; returns how many.

    Callers take theirs over within about a second, Cassandra within ten minutes. Kafka reads its own when it starts, so
    it keeps it. Raises as `ensure_certificates`.
    """
    issued = 0
    for process in processes:
        folder = server_authority(tls, process.name)
        if process.part not in (Part.STORE, Part.LOG) or not folder.exists():
            continue
        authority = WorldAuthority(folder, host=host, clock=clock, life=LIFE)
        for region in (process.region,) if process.region else regions:
            authority.issue(region_client(region))
            issued += 1
        if process.part is Part.STORE:
            authority.issue(process.name, host=process.address.rpartition(":")[0])
            issued += 1
    return issued
