"""At start-up: the messages of this code are compared with the schema that was recorded for their version."""

import msgspec

from infra.contracts.event_schema import SchemaRecord, describe, load_record, problems
from infra.plumbing.errors import SettingsError


class SchemaBrokenError(SettingsError):
    """The events' schema changed in a way that its version does not allow; the process does not start."""


def check_event_schema(current: SchemaRecord | None = None) -> None:
    """Compare `current` (this code's schema when it is not given) with the record.

    Raises:
        SchemaBrokenError: says everything that broke, and what to do about each kind of break.
    """
    try:
        recorded = load_record()
    except (OSError, msgspec.DecodeError) as error:
        raise SchemaBrokenError(
            f"the recorded event schema cannot be read: {error}.", fix="Install the distribution anew."
        ) from error
    found = problems(recorded, current if current is not None else describe())
    if found:
        raise SchemaBrokenError(
            f"the event schema broke: {'; '.join(one.what for one in found)}.",
            fix=" ".join(dict.fromkeys(one.fix for one in found)),
        )
