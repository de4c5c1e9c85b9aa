"""The ServerApp: Flower's grid as the port to the regions. What a run does is in `federation.flower.training`."""

import contextlib
import os
import secrets
import time
from collections.abc import Collection, Sequence
from pathlib import Path

import msgspec
from flwr.app import ConfigRecord, Context, Message, RecordDict
from flwr.serverapp import Grid, ServerApp

from federation.flower.client_app import BODY, PLAN, RESULT
from federation.flower.plan import PROGRESS_FILE, SERVER_APP_FILE, RunPlan
from federation.flower.training import TrainingRun
from federation.messages import RegionalSum, RoundPlan
from federation.rounds.outcome import RoundOutcome
from infra.contracts.residency import encode_global
from infra.plumbing.clock import Clock, SystemClock
from infra.plumbing.files import write_atomically
from infra.plumbing.settings import load_settings

FAILURE_FILE = "failure.txt"
_POLL_S = 0.25

app = ServerApp()


@app.main()  # type: ignore[untyped-decorator]
def main(grid: Grid, context: Context) -> None:
    """Run the plan that the run configuration names; what goes wrong is written where the supervisor looks."""
    file = Path(str(context.run_config["plan"]))
    plan = load_settings(file, RunPlan)
    outcome_directory = Path(plan.outcome_directory)
    outcome_directory.mkdir(parents=True, exist_ok=True)
    write_atomically(outcome_directory / SERVER_APP_FILE, str(os.getpid()).encode())
    if not file.exists():
        # Called back in this moment: first the plan goes, then whoever says that it runs it is ended.
        return
    try:
        run_plan(plan, grid, clock=SystemClock())
    except Exception as error:
        write_atomically(outcome_directory / FAILURE_FILE, f"{type(error).__name__}: {error}\n".encode())
        raise


def run_plan(plan: RunPlan, grid: Grid, *, clock: Clock) -> None:
    """Wait for the regions, train, write the outcome; each finished round is a line of PROGRESS_FILE."""
    regions = GridRegions(grid, names=plan.regions, nodes_wait_s=plan.nodes_wait_s, clock=clock)
    training = TrainingRun(plan, regions=regions, clock=clock, entropy=secrets.token_bytes)
    progress = Path(plan.outcome_directory) / PROGRESS_FILE

    def told(outcome: RoundOutcome) -> None:
        with progress.open("ab") as file:
            file.write(msgspec.json.encode(outcome) + b"\n")

    regions.wait_for_nodes()
    training.run(told=told)


class GridRegions:
    """Asks SuperNodes by Flower messages.

    Flower's own `send_and_receive` sleeps three seconds between looks, and `sample_nodes` waits for ever; this one
    looks more often and gives up.
    """

    def __init__(self, grid: Grid, *, names: Collection[str], nodes_wait_s: float, clock: Clock) -> None:
        self._grid = grid
        self._names = frozenset(names)
        self._nodes = len(self._names)
        self._nodes_wait_s = nodes_wait_s
        self._clock = clock

    def wait_for_nodes(self) -> list[int]:
        """Ids of the SuperNodes that are there, once all are or time is up."""
        ends_s = self._clock.monotonic_s() + self._nodes_wait_s
        while True:
            found = sorted(self._grid.get_node_ids())
            if len(found) >= self._nodes or self._clock.monotonic_s() >= ends_s:
                return found
            time.sleep(_POLL_S)

    def ask(self, plan: RoundPlan, *, timeout_s: float) -> Sequence[RegionalSum]:
        """The answers that came in time, equal ones once; a region whose ClientApp failed has not answered."""
        body = encode_global(plan)
        ends_s = self._clock.monotonic_s() + timeout_s
        asked: set[int] = set()
        waiting: set[str] = set()
        answers: dict[str, dict[RegionalSum, None]] = {}
        self.wait_for_nodes()
        while self._clock.monotonic_s() < ends_s:
            # A SuperNode that was killed comes back as another node; its gateway knows the round by its id.
            new = [node for node in sorted(self._grid.get_node_ids()) if node not in asked]
            if new:
                waiting |= set(self._grid.push_messages([_message(plan, body, node, timeout_s) for node in new]))
                asked.update(new)
            arrived = list(self._grid.pull_messages(waiting)) if waiting else []
            waiting -= {reply.metadata.reply_to_message_id for reply in arrived}
            for reply in arrived:
                if reply.has_content():
                    with contextlib.suppress(msgspec.DecodeError, KeyError):
                        found = _regional_sum(reply)
                        answers.setdefault(found.region, {})[found] = None
            if answers.keys() >= self._names or not (waiting or len(asked) < self._nodes):
                break
            time.sleep(_POLL_S)
        return [one for region in answers.values() for one in region]


def _message(plan: RoundPlan, body: bytes, node: int, timeout_s: float) -> Message:
    return Message(
        content=RecordDict({PLAN: ConfigRecord({BODY: body})}), message_type="train", dst_node_id=node,
        group_id=plan.round_id, ttl=timeout_s,
    )  # fmt: skip


def _regional_sum(reply: Message) -> RegionalSum:
    return msgspec.json.decode(reply.content[RESULT][BODY], type=RegionalSum)
