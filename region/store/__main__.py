"""`python -m region.store check|migrate|seal --settings FILE`: a region's Cassandra schema, checked or migrated.

`seal` puts rows that were written before rows lay under keys under their subjects' keys; others are left alone.
"""

import argparse
import asyncio
import sys
from pathlib import Path

from cassandra import DriverException
from cassandra.cluster import NoHostAvailable

from infra.plumbing.addresses import parse_address, scheme_of
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import AtollError, SettingsError, UnavailableError
from infra.plumbing.http.tls import client_context
from infra.plumbing.ids import new_request_id
from infra.plumbing.settings import load_settings
from region.settings import RegionSettings
from region.store.cassandra import CassandraStore
from region.store.cassandra_link import CassandraLink
from region.store.keyspace import check_keys, check_schema, checked_names, explain, migrate, queries
from region.store.opening import open_store


def run(verb: str, settings: RegionSettings) -> str:
    """Check, migrate or seal; returns what to tell.

    Raises:
        SettingsError: the store of these settings is no Cassandra.
        UnavailableError: no node answers, or the schema is not what this code knows.
    """
    if not scheme_of(settings.store):
        raise SettingsError(
            "the store of these settings is SQLite; it is brought up to date at every start.",
            fix="Name the settings of a region whose `store` is a cassandra:// address.",
        )
    if verb == "seal":
        return asyncio.run(_seal(settings))
    address = parse_address(settings.store, scheme="cassandra", options=CassandraLink.OPTIONS)
    keyspace, center = checked_names(address)
    tls = client_context(settings.store_tls, clock=SystemClock()) if settings.store_tls is not None else None
    cluster = CassandraLink.make_cluster(address, center, tls)
    try:
        session = cluster.connect()
        if verb == "migrate":
            version = migrate(session, address, holder=new_request_id())
        else:
            version = check_schema(session, keyspace)
        check_keys(session, keyspace)
        session.set_keyspace(keyspace)
        for text in queries().values():
            session.prepare(text)
    except NoHostAvailable as error:
        raise UnavailableError(
            f"none of {', '.join(address.host_ports)} answers.", fix="Start them: `./atoll servers start`, for example."
        ) from error
    except DriverException as error:
        raise UnavailableError(
            f"{explain(error, keyspace)}: {error}.", fix="Restore the tables as in region/store/cql/migrations."
        ) from error
    finally:
        cluster.shutdown()
    return f"{keyspace} stands at schema {version}, and every query fits"


async def _seal(settings: RegionSettings) -> str:
    store = open_store(settings)
    try:
        if not isinstance(store, CassandraStore):
            raise SettingsError("a store in a file is encrypted as a whole.")
        return f"{await store.seal_rows()} rows put under their subjects' keys"
    finally:
        await store.close()


def main(words: list[str]) -> int:
    """Read the command line and run; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m region.store",
        description="Check the schema of a region's Cassandra, bring it up to date, or put old rows under keys.",
        epilog="example: python -m region.store check --settings us-east.json",
    )
    parser.add_argument("verb", choices=("check", "migrate", "seal"))
    parser.add_argument("--settings", type=Path, required=True, help="the node's settings (.toml or .json)")
    arguments = parser.parse_args(words)
    try:
        print(run(arguments.verb, load_settings(arguments.settings, RegionSettings)))
    except AtollError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
