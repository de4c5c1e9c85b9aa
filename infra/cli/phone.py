"""`atoll phone`: one phone on this machine: what happened on it, what stays there, and what it still has to send.

Everything lies encrypted in a folder. `note` and `choose` need no network; `send` brings what waits to the phone's
region, as far as that answers, and can be repeated: nothing counts twice. What a phone does in federated rounds is in
`infra.cli.phone_rounds`.
"""

import argparse
import asyncio
import ssl
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.cli.output import add_json_option, emit, table
from infra.cli.phone_rounds import IDENTITY_FILE, add_verbs
from infra.contracts.events import Event, EventType, SensitiveEvent, event_strength
from infra.plumbing.clock import SystemClock
from infra.plumbing.errors import InvalidInputError
from infra.plumbing.ids import new_request_id
from infra.plumbing.locking import locked

if TYPE_CHECKING:
    from federation.device.outbox import Outbox
    from federation.device.store import DeviceStore
    from federation.phones.delivery import Delivered

CLOCK = SystemClock()
CALL_S_MAX = 30.0


def register(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """`atoll phone note|choose|send|outbox|key|join|vector|erase`."""
    text = "one phone: what happened on it, and what it has still to send to its region"
    phone = commands.add_parser(
        "phone", help=text, description=f"{text}. Example: ./atoll phone note --item 318 --type like"
    )
    verbs = phone.add_subparsers(metavar="VERB", required=True)
    note = _leaf(verbs, "note", _note, "remember an event, and keep it for the region until that has it", "--item 318")
    note.add_argument("--item", required=True)
    note.add_argument("--type", choices=[str(kind) for kind in EventType], default=str(EventType.VIEW))
    note.add_argument("--value", type=float, default=None, help="a rating from 1 to 5, or the watched share")
    note.add_argument("--sensitive", action="store_true", help="it stays on the phone: never sent, to nobody")
    choose = _leaf(verbs, "choose", _choose, "opt out of personal lists, or in again", "out")
    choose.add_argument("choice", choices=("out", "in"))
    send = _leaf(
        verbs, "send", _send, "bring what waits to the region; what it does not take now goes on waiting",
        "--edge http://127.0.0.1:8080 --token-file token",
    )  # fmt: skip
    send.add_argument("--edge", default="", metavar="URL", help="an edge, for events and choices")
    send.add_argument("--gateway", default="", metavar="URL", help="the region's device gateway, for a round's reply")
    send.add_argument("--token-file", type=Path, default=None, help="the user's token (./atoll keys token)")
    send.add_argument("--ca", type=Path, default=None, metavar="FILE", help="whom to trust behind https")
    _leaf(verbs, "outbox", _outbox, "what waits, and what was dropped and why", "")
    add_verbs(verbs, _leaf, _store)
    _leaf(verbs, "erase", _erase, "forget history, outbox and keys", "")


def _leaf(verbs: Any, name: str, run: Any, text: str, words: str) -> argparse.ArgumentParser:
    example = f"./atoll phone {name} {words}".rstrip()
    parser: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=f"{text}. Example: {example}")
    parser.add_argument(
        "--dir", type=Path, default=Path(".atoll/phone"), metavar="DIR", help="the phone's disk (default .atoll/phone)"
    )
    add_json_option(parser)
    parser.set_defaults(run=partial(_alone, run))
    return parser


def _alone(run: Callable[[argparse.Namespace], int | None], arguments: argparse.Namespace) -> int | None:
    """One command at a time: of two that write the same disk one would be forgotten."""
    arguments.dir.mkdir(parents=True, exist_ok=True, mode=0o700)
    with locked(arguments.dir / "phone.lock"):
        return run(arguments)


def _store(arguments: argparse.Namespace) -> "DeviceStore":
    import secrets

    from federation.device.keystore import FileKeyStore
    from federation.device.store import DeviceStore

    keys = FileKeyStore(arguments.dir / "phone.key", entropy=secrets.token_bytes)
    return DeviceStore.salvaged(arguments.dir / "phone.phone", keys=keys)


def _note(arguments: argparse.Namespace) -> None:
    kind, now_ms = EventType(arguments.type), CLOCK.now_ms()
    store = _store(arguments)
    if arguments.sensitive:
        strength = event_strength(kind, arguments.value)
        store.add_sensitive(SensitiveEvent(item=arguments.item, strength=strength, at_ms=now_ms))
        store.save()
        return emit(arguments, {"sensitive": True}, "kept on the phone")
    event = Event(event_id=new_request_id(), type=kind, item=arguments.item, at_ms=now_ms, value=arguments.value)
    # Into the outbox first: a phone that is killed between the two must not forget to tell its region.
    outbox = store.outbox()
    outbox.add_event(event, now_ms=now_ms)
    store.add_served(event)
    store.save()
    return _emit_outbox(arguments, outbox)


def _choose(arguments: argparse.Namespace) -> None:
    outbox = _store(arguments).outbox()
    outbox.add_choice(opted_out=arguments.choice == "out", now_ms=CLOCK.now_ms())
    _emit_outbox(arguments, outbox)


def _outbox(arguments: argparse.Namespace) -> None:
    _emit_outbox(arguments, _store(arguments).outbox())


def _erase(arguments: argparse.Namespace) -> None:
    _store(arguments).erase()
    (arguments.dir / IDENTITY_FILE).unlink(missing_ok=True)
    emit(arguments, {"erased": True}, "forgotten, with the key")


def _send(arguments: argparse.Namespace) -> int:
    if not (arguments.edge or arguments.gateway):
        raise InvalidInputError("there is nowhere to send to.", fix="Name --edge, --gateway or both.")
    if arguments.edge and arguments.token_file is None:
        raise InvalidInputError("an edge asks whose events these are.", fix="Name --token-file (./atoll keys token).")
    token = arguments.token_file.read_text().strip() if arguments.token_file else ""
    outbox = _store(arguments).outbox()
    done = asyncio.run(_delivered(arguments, outbox, token))
    result = {"taken": done.taken, "refused": done.refused, "stopped": done.stopped} | _state(outbox)
    text = f"{done.taken} taken, {done.refused} refused, {len(outbox)} wait"
    emit(arguments, result, text + (f" ({done.stopped})" if done.stopped else ""))
    return 1 if done.stopped else 0


async def _delivered(arguments: argparse.Namespace, outbox: "Outbox", token: str) -> "Delivered":
    import aiohttp

    from federation.phones.delivery import Delivery

    context = ssl.create_default_context(cafile=arguments.ca) if arguments.ca else True
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context), timeout=aiohttp.ClientTimeout(total=CALL_S_MAX)
    ) as session:
        delivery = Delivery(session, gateway=arguments.gateway, edge=arguments.edge, token=token)
        return await delivery.run(outbox, clock=CLOCK)


def _state(outbox: "Outbox") -> dict[str, Any]:
    return {"waiting": outbox.waiting(), "dropped": {why: count for why, count in outbox.dropped.items() if count}}


def _emit_outbox(arguments: argparse.Namespace, outbox: "Outbox") -> None:
    state = _state(outbox)
    rows = [{"errands": f"waiting: {kind}", "count": count} for kind, count in state["waiting"].items()]
    rows += [{"errands": f"dropped: {why}", "count": count} for why, count in state["dropped"].items()]
    emit(arguments, state, table(rows) if rows else "nothing waits")
