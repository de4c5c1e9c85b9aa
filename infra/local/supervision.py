"""One child as the supervisor sees it: a small state machine, apart from the calls that start and end processes."""

import subprocess
from collections.abc import Iterable
from dataclasses import dataclass, field

from infra.local.probing import Finding
from infra.local.records import ProcessPlan, ProcessState, ProcessStatus, RestartPolicy
from infra.local.restarts import recent_crashes, restart_delay_s

STAGE_PATIENCE_S = 20.0
"""So long a process waits for the stages before it, then it starts anyway."""
_RUNNING = frozenset({ProcessState.STARTING, ProcessState.LIVE, ProcessState.READY})
_LIVE = frozenset({ProcessState.LIVE, ProcessState.READY})


@dataclass(slots=True, kw_only=True)
class Child:
    """A planned process and what became of it. Moments are seconds of the monotonic clock."""

    plan: ProcessPlan
    policy: RestartPolicy
    waiting_since_s: float
    state: ProcessState = ProcessState.WAITING
    detail: str = ""
    process: subprocess.Popen[bytes] | None = None
    start_at_s: float = 0.0
    crashes_s: list[float] = field(default_factory=list)
    restarts: int = 0
    eased: bool = False
    eased_until_s: float | None = None
    pids: list[int] = field(default_factory=list)
    rss_mb: float = 0.0
    probe_at_s: float = 0.0

    @property
    def wanted(self) -> bool:
        """Whether it should run: not killed on purpose."""
        return self.state is not ProcessState.KILLED

    @property
    def live(self) -> bool:
        """Whether it answered its last probe."""
        return self.state in _LIVE

    @property
    def running(self) -> bool:
        """Whether there is a process, whatever it answers."""
        return self.state in _RUNNING

    @property
    def coming_back(self) -> bool:
        """Whether it starts while others serve, and takes their processor: it has not answered yet."""
        return self.state is ProcessState.STARTING and self.eased_until_s is not None

    def is_due(self, now_s: float, others: Iterable["Child"], *, back_at_once: int) -> bool:
        """Whether it must be started now. Of those that come back no more than `back_at_once` start side by side."""
        if self.process is not None or self.state not in (ProcessState.WAITING, ProcessState.CRASHED):
            return False
        if self.state is ProcessState.CRASHED or self.restarts or self.eased:
            return now_s >= self.start_at_s and sum(other.coming_back for other in others) < back_at_once
        waited_s = now_s - self.waiting_since_s
        return waited_s >= STAGE_PATIENCE_S or all(other.live for other in others if self._waits_for(other))

    def _waits_for(self, other: "Child") -> bool:
        shared = "" in (self.plan.region, other.plan.region)
        return other.wanted and other.plan.stage < self.plan.stage and (shared or other.plan.region == self.plan.region)

    def started(self, process: subprocess.Popen[bytes], now_s: float, *, eased_s: float) -> None:
        """It runs from now on."""
        self.process = process
        self.state, self.detail = ProcessState.STARTING, "has not answered yet"
        self.probe_at_s = now_s
        self.pids = [process.pid]
        self.eased_until_s = now_s + eased_s if self.eased else None
        self.eased = False

    def found(self, finding: Finding) -> None:
        """A probe came back."""
        if self.state not in _RUNNING:
            return
        self.detail = finding.detail
        if finding.ready:
            self.state = ProcessState.READY
        elif finding.live:
            self.state = ProcessState.LIVE
        elif self.state in _LIVE:
            self.state = ProcessState.STARTING

    def is_eased_enough(self, now_s: float) -> bool:
        """Whether it ran at lower priority until it was ready, or as long as that may last."""
        return self.eased_until_s is not None and (now_s >= self.eased_until_s or self.state is ProcessState.READY)

    def ended(self, code: int, now_s: float) -> None:
        """Its process is gone: by `world kill`, or by itself, and then it is started again after a pause."""
        self.process, self.pids, self.rss_mb, self.eased_until_s = None, [], 0.0, None
        if self.state is ProcessState.DRAINING:
            # `eased` also lets it start at once, whatever else is down.
            self.state, self.detail, self.eased, self.start_at_s = ProcessState.WAITING, "restarting", True, now_s
        elif self.state is not ProcessState.KILLED:
            self.failed(f"ended with code {code}", now_s)

    def failed(self, why: str, now_s: float) -> None:
        """It ended, or could not be started at all."""
        self.crashes_s = [*recent_crashes(self.policy, self.crashes_s, now_s), now_s]
        delay_s = restart_delay_s(self.policy, self.crashes_s, now_s)
        if delay_s is None:
            self.state, self.detail = ProcessState.GAVE_UP, f"{why}, too often"
            return
        self.state, self.detail = ProcessState.CRASHED, f"{why}; starts again in {delay_s:.1f} s"
        self.eased, self.start_at_s = True, now_s + delay_s
        self.restarts += 1

    def killed(self) -> None:
        """It stays down until it is healed."""
        self.state, self.detail = ProcessState.KILLED, "by world kill"

    def drain(self) -> bool:
        """It is told to end, and starts again when it has; says whether there was anything to tell."""
        if self.process is None or self.state not in _RUNNING:
            return False
        self.state, self.detail = ProcessState.DRAINING, "by world restart"
        return True

    def heal(self, now_s: float) -> bool:
        """Start again at once if it was killed or given up; says whether it was."""
        if self.state not in (ProcessState.KILLED, ProcessState.GAVE_UP):
            return False
        self.crashes_s.clear()
        self.state, self.detail, self.eased, self.start_at_s = ProcessState.WAITING, "healing", True, now_s
        return True

    def status(self) -> ProcessStatus:
        """It now, for people."""
        return ProcessStatus(
            name=self.plan.name, part=self.plan.part, region=self.plan.region, state=self.state,
            pid=self.process.pid if self.process else None, address=self.plan.address, restarts=self.restarts,
            rss_mb=round(self.rss_mb, 1), detail=self.detail,
        )  # fmt: skip
