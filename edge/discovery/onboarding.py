"""What somebody new has chosen, as events: likes enter the history, follows the row, and both can be taken back.

Nothing new is stored and nothing new must be erased: a choice is an event like any other, durable in the home region,
and sent again it counts once.
"""

import hashlib

from edge.http.bodies import CallerOnboarding
from infra.contracts.events import SCHEMA_VERSION, Event, EventBatch, EventType
from infra.plumbing.errors import InvalidInputError

_DAY_MS = 86_400_000


def events_of(chosen: CallerOnboarding, *, now_ms: int) -> EventBatch:
    """The events of an onboarding call, of this moment.

    Raises:
        InvalidInputError: nothing was chosen.
    """
    named = [(EventType.LIKE, item) for item in chosen.likes] + [(EventType.DISLIKE, item) for item in chosen.dislikes]
    events = [Event(event_id=_id(kind, item, now_ms), type=kind, item=item, at_ms=now_ms) for kind, item in named]
    groups = (("category", chosen.categories), ("brand", chosen.brands), ("creator", chosen.creators))
    for what, names in groups:
        for target in (f"{what}:{name}" for name in names):
            kind = EventType.FOLLOW
            events.append(Event(event_id=_id(kind, target, now_ms), type=kind, follows=target, at_ms=now_ms))
    if not events:
        raise InvalidInputError("nothing was chosen.", fix="Name likes, dislikes, categories, brands or creators.")
    return EventBatch(events=tuple({event.event_id: event for event in events}.values()), schema_version=SCHEMA_VERSION)


def _id(kind: EventType, what: str, now_ms: int) -> str:
    """The same choice on the same day is the same event, however often the call is sent."""
    text = f"{kind.value}\x00{what}\x00{now_ms // _DAY_MS}"
    return f"onboarding:{hashlib.blake2b(text.encode(), digest_size=12).hexdigest()}"
