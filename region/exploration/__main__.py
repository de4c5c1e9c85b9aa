"""`python -m region.exploration --settings FILE`: off-policy estimates from a node's exposures and its region's log."""

import argparse
import sys
from pathlib import Path

import uvloop

from infra.contracts.events import EventType
from infra.contracts.messages import Surface
from infra.contracts.residency import Global, Regional, RegionalMessage
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.one_shot import print_report
from infra.plumbing.settings import load_settings
from region.events.opening import open_log
from region.exploration.estimating import Estimates, estimate
from region.exploration.exposures import read_exposures
from region.exploration.rounds import REWARDS, Reading, Rounds, read_rounds
from region.exploration.targets import named_policy, policy_of_rules, targets_of
from region.keeping.opening import open_file_keys
from region.privacy.bulk import open_bulk_reads
from region.rules.schema import Exploration
from region.settings import RegionSettings

WINDOW_S = 86_400.0
CLIP = 10.0


class EstimateReport(RegionalMessage, frozen=True, kw_only=True):
    """What was asked and what was found."""

    policy: Global[str]
    method: Global[str]
    epsilon: Global[float]
    window_s: Global[float]
    left_out: Regional[dict[str, int]]
    estimates: Regional[Estimates]


async def run(given: argparse.Namespace) -> EstimateReport:
    """Do what the command line says.

    Raises:
        InvalidInputError: the policy cannot be used, or nothing was explored yet.
    """
    settings = load_settings(given.settings, RegionSettings)
    policy = _policy(given)
    reading = Reading(
        rewards=_rewards(given.rewards), window_ms=round(given.window_s * 1000), now_ms=SystemClock().now_ms(),
        surface=given.surface, only_seen=given.only_seen,
    )  # fmt: skip
    found = await _read(settings, reading)
    if not found.rounds:
        why = "".join(f" Left out: {count} {reason}." for reason, count in found.left_out.items())
        raise InvalidInputError(
            f"there is no draw to estimate from.{why}",
            fix="Publish rules with exploration positions (region/rules/README.md), or take a shorter --window-s.",
        )
    return EstimateReport(
        policy=given.rules.name if given.rules else given.policy, method=policy.method, epsilon=policy.epsilon,
        window_s=given.window_s, left_out=found.left_out,
        estimates=estimate(found.rounds, targets_of(policy, found.rounds), clip=given.clip),
    )  # fmt: skip


async def _read(settings: RegionSettings, reading: Reading) -> Rounds:
    """Pages and what came of them; a read of everybody's events, so it is written down."""
    reads = open_bulk_reads(settings, SystemClock())
    async with reads.reading(who="command line", action="estimate", why="off-policy estimates") as read:
        log = open_log(settings)
        try:
            pages = read_exposures(Path(settings.state_directory), open_file_keys(settings))
            read.touch_each("pages shown", (page.subject for page in pages))
            return await read_rounds(pages, log, reading, touch=read.touch)
        finally:
            await log.close()


def _policy(given: argparse.Namespace) -> Exploration:
    if given.rules is None:
        return named_policy(given.policy)
    try:
        document = given.rules.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"the rules {given.rules} cannot be read.", fix="Name a rule file.") from error
    return policy_of_rules(document, Surface(given.surface or Surface.HOME))


def _rewards(words: str) -> frozenset[EventType]:
    try:
        return frozenset(EventType(word) for word in words.split(",")) if words else REWARDS
    except ValueError:
        raise InvalidInputError(
            "a reward is no type of event.", fix=f"Types are {', '.join(kind.value for kind in EventType)}."
        ) from None


def main(arguments: list[str]) -> int:
    """Read the command line and run; prints one JSON object, returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m region.exploration",
        description="Estimate what another policy of exploration slots would bring.",
        epilog="example: python -m region.exploration --settings us-east/region.json --policy greedy",
    )
    parser.add_argument("--settings", type=Path, required=True, help="the node's settings (.toml or .json)")
    parser.add_argument("--policy", default="greedy", help="greedy, uniform, epsilon-greedy:0.05, thompson:0.1")
    parser.add_argument("--rules", type=Path, default=None, help="a rule file, in place of --policy")
    parser.add_argument("--surface", default="", choices=["", *(one.value for one in Surface)], help="of this one only")
    parser.add_argument("--window-s", type=float, default=WINDOW_S, help="how long after a page a reward counts")
    parser.add_argument("--clip", type=float, default=CLIP, help="largest weight of clipped IPS")
    parser.add_argument("--rewards", default="", help="types of events that count, between commas")
    parser.add_argument("--only-seen", action="store_true", help="only draws with an impression of the item")
    given = parser.parse_args(arguments)
    return print_report(lambda: uvloop.run(run(given)))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
