"""When a process that crashed is started again: exponential pauses, and an end to patience."""

from collections.abc import Sequence

from infra.local.records import RestartPolicy


def recent_crashes(policy: RestartPolicy, crashes_s: Sequence[float], now_s: float) -> list[float]:
    """The moments in `crashes_s` that still count at `now_s`."""
    return [moment for moment in crashes_s if now_s - moment <= policy.window_s]


def restart_delay_s(policy: RestartPolicy, crashes_s: Sequence[float], now_s: float) -> float | None:
    """Seconds to wait before the next start, or None when the process has crashed too often to be tried again.

    Args:
        policy: the bounds.
        crashes_s: moments of its crashes, the latest one included.
        now_s: the moment, on the same clock.
    """
    count = len(recent_crashes(policy, crashes_s, now_s))
    if count > policy.crashes_max:
        return None
    return min(policy.delay_max_s, policy.first_delay_s * policy.factor ** max(0, count - 1))
