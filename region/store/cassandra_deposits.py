"""What Cassandra keeps of an erased subject, by what its nodes say of themselves (virtual tables of `system_views`).

A deletion is a tombstone; what it covers leaves the data files when both are compacted, `gc_grace_seconds` later at the
earliest. Beside the data files lie the commit log, hints for nodes that were away, `system.paxos` (rows and keys are
written by conditional updates), snapshots, and, where they are switched on, incremental backups and change data.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from infra.plumbing.errors import UnavailableError
from region.keeping.deposits import Deposit, Fate, day_of
from region.store.cassandra_link import CassandraLink

ROWS, KEYS = ("rows",), ("subject_keys", "keys_by_handle")
SETTINGS = (
    "hinted_handoff_enabled", "max_hint_window", "commitlog_total_space", "incremental_backups", "auto_snapshot",
    "cdc_enabled",
)  # fmt: skip
_ASK_S = 5.0
# No files: these are not prepared, for a node of before Cassandra 5 has no such tables, and each is asked by itself.
GRACE_QUERY = "SELECT keyspace_name, table_name, gc_grace_seconds FROM system_schema.tables"
SETTINGS_QUERY = "SELECT name, value FROM system_views.settings"
SNAPSHOTS_QUERY = "SELECT name, keyspace_name, table_name FROM system_views.snapshots"
HINTS_QUERY = "SELECT files FROM system_views.pending_hints"
_SHREDDED = "what rows say lies under the subject's key, which was destroyed; they were counted anew: none"
_WRAPPED = "deleted and counted anew; what was written of the key lies wrapped by the region's rest key"
_ROTATED = "deleted and counted anew; the region's rest keys of then are gone, the oldest that it has is of"
_ROTATE = "`./atoll keys rotate-rest` ends them all at once: nothing that was wrapped before opens then"


@dataclass(frozen=True, slots=True)
class ClusterFacts:
    """What a region's nodes say.

    grace_s: `gc_grace_seconds` by table.
    settings: by node's address; a node that did not say is missing.
    snapshots: (node, snapshot, table) of the region's keyspace.
    hints: files with hints on all nodes.
    silent: nodes that did not say, with the reason.
    """

    grace_s: Mapping[str, int]
    settings: Mapping[str, Mapping[str, str]]
    snapshots: Sequence[tuple[str, str, str]]
    hints: int
    silent: Mapping[str, str]


async def read_facts(link: CassandraLink) -> ClusterFacts:
    """Ask the nodes; an erasure does not fail because one keeps silent."""
    try:
        grace, _ = await link.ask_nodes(GRACE_QUERY, timeout_s=_ASK_S)
        said, silent = await link.ask_nodes(SETTINGS_QUERY, timeout_s=_ASK_S)
        listed, no_list = await link.ask_nodes(SNAPSHOTS_QUERY, timeout_s=_ASK_S)
        waiting, no_hints = await link.ask_nodes(HINTS_QUERY, timeout_s=_ASK_S)
    except UnavailableError as error:
        return ClusterFacts({}, {}, (), 0, {"the region's cluster": error.message})
    settings = {
        node: {str(name): str(value) for name, value in rows if name in SETTINGS} for node, rows in said.items()
    }  # fmt: skip
    snapshots = [
        (node, str(name), str(table)) for node, rows in listed.items() for name, keyspace, table in rows
        if keyspace == link.keyspace
    ]  # fmt: skip
    hints = sum(int(files or 0) for rows in waiting.values() for (files,) in rows)
    grace_s = {
        str(table): int(seconds) for rows in grace.values() for keyspace, table, seconds in rows
        if keyspace == link.keyspace
    }  # fmt: skip
    return ClusterFacts(grace_s, settings, snapshots, hints, no_hints | no_list | silent)


def row_deposits(facts: ClusterFacts, *, erased_ms: int, sealed: bool) -> tuple[Deposit, ...]:
    """Of the subject's row."""
    fate = Fate.SHREDDED if sealed else Fate.READABLE
    proof = _SHREDDED if sealed else "deleted and counted anew; rows lie in the clear in this region"
    return (
        Deposit(
            where="data files of rows: what they say", fate=fate, proof=proof, until=_compacted(facts, ROWS, erased_ms)
        ),
        Deposit(
            where="data files of rows: that there was one", fate=Fate.NAMED, proof="a tombstone covers it",
            until=_compacted(facts, ROWS, erased_ms),
        ),
        *_others(facts, ROWS, fate, proof, erased_ms),
    )  # fmt: skip


def key_deposits(facts: ClusterFacts, *, erased_ms: int, roots_since_ms: int = 0) -> tuple[Deposit, ...]:
    """Of the subject's key itself.

    `roots_since_ms`: when the oldest rest key that the region still has was made; 0: not known. A key that was deleted
    before then was never wrapped by one of them: every copy of it, in snapshots too, opens no more.
    """
    until = _compacted(facts, KEYS, erased_ms)
    fate, proof = Fate.WRAPPED, _WRAPPED
    if roots_since_ms > erased_ms:
        fate, proof = Fate.SHREDDED, f"{_ROTATED} {day_of(roots_since_ms)}"
    else:
        until = f"{until}. {_ROTATE}"
    return (
        Deposit(where="data files of subjects' keys", fate=fate, proof=proof, until=until),
        *_others(facts, KEYS, fate, proof, erased_ms),
    )


def _others(
    facts: ClusterFacts, tables: Sequence[str], fate: Fate, proof: str, erased_ms: int
) -> tuple[Deposit, ...]:  # fmt: skip
    paxos_s = max([10_800, *(facts.grace_s.get(table, 864_000) for table in tables)])
    found = [
        Deposit(
            where="commit log", fate=fate, proof=f"{proof}; {_said(facts, 'commitlog_total_space')}",
            until="when the segment is written over: at that size, or at `nodetool flush` of the keyspace",
        ),
        Deposit(
            where="system.paxos (values of conditional updates)", fate=fate, proof=proof,
            until=f"they run out by {day_of(erased_ms + 1000 * paxos_s)}, and go with the compaction behind it",
        ),
        Deposit(
            where="hints for nodes that were away", fate=fate if facts.hints else Fate.GONE,
            proof=f"{facts.hints} files with hints; {_said(facts, 'hinted_handoff_enabled')}",
            until=_said(facts, "max_hint_window") if facts.hints else "",
        ),
        _snapshots(facts, tables, fate),
    ]  # fmt: skip
    found += [
        Deposit(where=name, fate=fate, proof="switched on", until="as long as its files are kept")
        for name in ("incremental_backups", "cdc_enabled")
        if any(one.get(name, "").lower() == "true" for one in facts.settings.values())
    ]
    if facts.silent or not facts.settings:
        told = "; ".join(f"{node}: {why}" for node, why in sorted(facts.silent.items())) or "no node answered"
        found.append(Deposit(where="nodes that did not say", fate=Fate.UNKNOWN, proof=told, until="unknown"))
    return tuple(found)


def _snapshots(facts: ClusterFacts, tables: Sequence[str], fate: Fate) -> Deposit:
    held = sorted({name for _, name, table in facts.snapshots if table in tables})
    if not held:
        return Deposit(where="snapshots", fate=Fate.GONE, proof="the nodes that answered list none of these tables")
    named = ", ".join(held[:10]) + (f" and {len(held) - 10} more" if len(held) > 10 else "")
    return Deposit(
        where=f"snapshots {named}", fate=fate, proof="listed by the nodes; one of before the erasure may hold it",
        until="`nodetool clearsnapshot -t NAME` on every node",
    )  # fmt: skip


def _compacted(facts: ClusterFacts, tables: Sequence[str], erased_ms: int) -> str:
    grace_s = max((facts.grace_s[table] for table in tables if table in facts.grace_s), default=864_000)
    return (
        f"the first compaction behind {day_of(erased_ms + 1000 * grace_s)} (gc_grace_seconds={grace_s}); "
        f"`nodetool garbagecollect KEYSPACE {' '.join(tables)}` has it at once"
    )


def _said(facts: ClusterFacts, name: str) -> str:
    values = sorted({one[name] for one in facts.settings.values() if name in one})
    return f"{name}={' or '.join(values)}" if values else f"{name} is not known"
