"""How much memory processes take, with everything they started."""

import os
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

_PAGE_KB = os.sysconf("SC_PAGE_SIZE") // 1024


def memory_kb(pid: int) -> int:
    """Memory of one process in KiB: its proportional share (PSS) where readable, else its resident size; 0 if gone."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_bytes().splitlines():
            if line.startswith(b"Pss:"):
                return int(line.split()[1])
    except (OSError, ValueError):
        pass
    return _resident_kb(pid)


def _resident_kb(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/statm").read_bytes().split()[1]) * _PAGE_KB
    except (OSError, ValueError, IndexError):
        return 0


class MemoryMeter:
    """Memory of processes that are looked at again and again.

    Reading a proportional share makes the kernel walk the whole process, which costs up to a millisecond; it is read
    again only when the resident size has moved by CHANGE_KB since, or REUSES_MAX looks have gone by.
    """

    CHANGE_KB = 1024
    REUSES_MAX = 10

    def __init__(self) -> None:
        self._known: dict[int, tuple[int, int, int]] = {}

    def measure_mb(self, pids: Iterable[int]) -> float:
        """Sum over `pids`, in MiB."""
        return sum(self._measure_kb(pid) for pid in pids) / 1024

    def forget_others(self, pids: Iterable[int]) -> None:
        """Keep nothing about processes that are not in `pids`."""
        alive = set(pids)
        self._known = {pid: known for pid, known in self._known.items() if pid in alive}

    def _measure_kb(self, pid: int) -> int:
        resident = _resident_kb(pid)
        seen, share, reuses = self._known.get(pid, (-self.CHANGE_KB, 0, 0))
        if abs(resident - seen) < self.CHANGE_KB and reuses < self.REUSES_MAX:
            self._known[pid] = (seen, share, reuses + 1)
            return share
        share = memory_kb(pid)
        self._known[pid] = (resident, share, 0)
        return share


def descendants(roots: Iterable[int]) -> dict[int, list[int]]:
    """For each root its own pid and all that descend from it or share its process group."""
    children: dict[int, list[int]] = defaultdict(list)
    groups: dict[int, list[int]] = defaultdict(list)
    for entry in os.listdir("/proc"):
        if entry.isdigit():
            parent, group = _parent_and_group(int(entry))
            children[parent].append(int(entry))
            groups[group].append(int(entry))
    return {root: _reach(root, children, groups) for root in roots}


def memory_mb(pids: Iterable[int]) -> float:
    """Sum over processes, in MiB."""
    return sum(memory_kb(pid) for pid in pids) / 1024


def tree_memory_mb(pid: int) -> float:
    """A process and everything that descends from it, in MiB."""
    return memory_mb(descendants([pid])[pid])


def _reach(root: int, children: dict[int, list[int]], groups: dict[int, list[int]]) -> list[int]:
    seen: set[int] = set()
    waiting = [root, *groups.get(root, ())]
    while waiting:
        pid = waiting.pop()
        if pid not in seen:
            seen.add(pid)
            waiting.extend(children.get(pid, ()))
    return sorted(seen)


def _parent_and_group(pid: int) -> tuple[int, int]:
    try:
        # The name in parentheses may hold anything; what follows its last `)` is: state, parent, group, ...
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return int(fields[1]), int(fields[2])
    except (OSError, ValueError, IndexError):
        return 0, 0
