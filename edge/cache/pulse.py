"""Whether the grid still carries messages to this edge, found out end to end: it listens for a word of its own.

A connection that is open proves nothing: the other end may be frozen, or have forgotten the subscription. So the edge
publishes a pulse on the topic of invalidations every PULSE_S and hears it come back. `Pulse` is pure.

    heard last .. | sent, not heard for SILENT_S            | heard again
    trusted       | silent: personal lists live 1 s, notices | trusted
                  | are asked for over HTTP instead          |

An edge that is itself late (a busy machine) cannot tell whether the grid is: it does not change its mind then.
"""

from dataclasses import dataclass

PULSE_S = 0.25
SILENT_S = 0.75
LATE_S = 0.25
REFUSALS_MAX = 2
"""A grid that says at once that it is not there is believed after so many times in a row."""


@dataclass(slots=True)
class Pulse:
    """What is known of the grid's messages. Times are monotonic seconds."""

    silent: bool = False
    unheard_since_s: float | None = None
    """When the oldest pulse left that has not come back."""
    refusals: int = 0

    def sent(self, *, now_s: float) -> None:
        """A pulse left."""
        self.refusals = 0
        if self.unheard_since_s is None:
            self.unheard_since_s = now_s

    def refused(self) -> None:
        """A pulse could not be sent."""
        self.refusals += 1

    def heard(self) -> None:
        """A pulse came back."""
        self.unheard_since_s = None
        self.refusals = 0
        self.silent = False

    def judge(self, *, now_s: float, late_s: float) -> bool:
        """Whether the grid is silent; `late_s` is by how much this edge itself woke up too late."""
        if late_s < LATE_S:
            overdue = self.unheard_since_s is not None and now_s - self.unheard_since_s >= SILENT_S
            self.silent = self.silent or overdue or self.refusals >= REFUSALS_MAX
        return self.silent
