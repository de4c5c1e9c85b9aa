"""`atoll experiments`: what exploration slots have taught, and what another policy would have brought."""

import argparse
from pathlib import Path
from typing import Any

from infra.cli.events import add_region, run_tool, settings_of
from infra.cli.output import add_json_option, emit, table

_NAMES = {
    "logged": "as it ran", "ips": "IPS", "clipped_ips": "clipped IPS", "snips": "SNIPS",
    "doubly_robust": "doubly robust",
}  # fmt: skip


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll experiments estimate`."""
    text = "what exploration slots teach"
    parser = commands.add_parser(
        "experiments", help=text,
        description=f"{text}. Example: ./atoll experiments estimate --region us-east --policy greedy",
    )  # fmt: skip
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    says = "estimate another policy from logged draws: IPS, clipped IPS, SNIPS and doubly robust, with 95 % intervals"
    verb = verbs.add_parser(
        "estimate", help=says,
        description=f"{says}. Example: ./atoll experiments estimate --region us-east --policy epsilon-greedy:0.05",
    )  # fmt: skip
    add_region(verb)
    verb.add_argument("--policy", default="greedy", help="greedy, uniform, epsilon-greedy:0.05 or thompson:0.1")
    verb.add_argument("--rules", type=Path, default=None, metavar="FILE", help="the policy of a rule file instead")
    verb.add_argument("--surface", default="", help="draws of this surface only (and the rule file's policy there)")
    verb.add_argument("--window-s", type=float, default=86_400.0, help="how long after a page a reward counts")
    verb.add_argument("--clip", type=float, default=10.0, help="largest weight of clipped IPS")
    verb.add_argument("--rewards", default="", help="types of events that count (default click,like,cart,purchase)")
    verb.add_argument("--only-seen", action="store_true", help="only draws whose item has an impression")
    add_json_option(verb)
    verb.set_defaults(run=_estimate)


def _estimate(arguments: argparse.Namespace) -> None:
    words = ["--settings", str(settings_of(arguments).resolve()), "--policy", arguments.policy]
    words += ["--window-s", str(arguments.window_s), "--clip", str(arguments.clip), "--surface", arguments.surface]
    words += ["--rewards", arguments.rewards]
    words += ["--rules", str(arguments.rules.resolve())] if arguments.rules is not None else []
    words += ["--only-seen"] if arguments.only_seen else []
    found: dict[str, Any] = run_tool("region", "region.exploration", words)
    numbers = found["estimates"]
    rows = [
        {"estimator": name, "value": f"{one['value']:.5f}", "95 % from": f"{one['low']:.5f}",
         "to": f"{one['high']:.5f}"}
        for key, name in _NAMES.items()
        for one in [{part: numbers[key][part] or 0.0 for part in ("value", "low", "high")}]
    ]  # fmt: skip
    lines = [
        f"{found['policy']}: rewards per slot shown, from {numbers['rounds']} draws of {numbers['subjects']} subjects",
        table(rows),
        f"worth {numbers['effective_rounds']:.0f} draws of its own; {numbers['clipped']:.1%} of the weights clipped; "
        f"{numbers['not_covered']:.1%} of its choices could not have been shown",
    ]
    lines += [f"left out: {count} {why}" for why, count in found["left_out"].items()]
    emit(arguments, found, "\n".join(lines))
