"""A store's rows under their subjects' keys: an erased key takes the row with it, wherever a copy of it lies.

`content` and `notes` are sealed as the log's records are (`region.keeping.sealing`), each bound to its column; values
of before there were keys begin with another byte and are read as they are. In the clear stay the pseudonym, how often
the row was written and its version (both are compared), lengths, and of who opted out the bare choice: it has to
outlive every key. A value whose key has gone is no value: whoever reads finds no row, whoever writes writes over it.

Reading asks for a key when it is not at hand, and not whether anybody was erased meanwhile: an erasure deletes the row
too, and has every process let go of its keys a moment later (`region.keeping.wiping`). Writing has to ask:

* the worker looks at the epoch while it loads a batch's rows, and then seals by keys that it remembers of that epoch,
  or loads. An erasure that comes in between covers all that the batch has of its subject, for the log's end is read
  behind it: what is written under the erased key is opened by nobody and missed by nobody;
* who changes one row (an opt-out, an import) looks before, writes, and looks behind it: if somebody was erased
  meanwhile the row is read again, and if it does not open it is written again under the key of now, before anything is
  answered.
"""

import asyncio

from cryptography.exceptions import InvalidTag
from prometheus_client import CollectorRegistry, Counter

from region.keeping.sealing import Seals, handle_of, open_value, seal_value
from region.keeping.wrapping import KeysUnavailableError
from region.store.port import StoreUnavailableError

CONTENT = b"row content"
NOTES = b"row notes"


class RowSeals:
    """Seals and opens the values of rows.

    Args:
        seals: over keys that are kept where the rows are, so that the one is never there without the other; None:
            values lie in the clear.
        registry: where values that did not open are counted.
    """

    def __init__(self, seals: Seals | None, *, registry: CollectorRegistry) -> None:
        self._seals = seals
        self._unopened = Counter(
            "atoll_store_unopened", "Values of rows that did not open, and were taken for none.", ("cause",),
            registry=registry,
        )  # fmt: skip

    @property
    def are_on(self) -> bool:
        """Whether values lie under keys at all."""
        return self._seals is not None

    async def keep_up(self, *, timeout_s: float) -> object:
        """Let go of keys if anybody was erased since the last look; the epoch, compared for equality only.

        Raises:
            StoreUnavailableError: the epoch cannot be read.
        """
        if self._seals is None:
            return None
        try:
            async with asyncio.timeout(timeout_s):
                return await self._seals.keep_up()
        except (TimeoutError, KeysUnavailableError) as error:
            raise _unavailable(error, timeout_s) from error

    async def seal(self, subject: str, content: bytes, notes: bytes, *, timeout_s: float) -> tuple[bytes, bytes]:
        """Both values under the subject's key, which is made when there is none.

        Raises:
            StoreUnavailableError: the key cannot be read or made.
        """
        if self._seals is None:
            return content, notes
        try:
            async with asyncio.timeout(timeout_s):
                handle, box = await self._seals.box_for(subject)
        except (TimeoutError, KeysUnavailableError) as error:
            raise _unavailable(error, timeout_s) from error
        return seal_value(content, handle, box, about=CONTENT), seal_value(notes, handle, box, about=NOTES)

    async def open(self, value: bytes, *, about: bytes, timeout_s: float) -> bytes | None:
        """Inverse of `seal` for one value; None when its key has gone, or it was changed.

        Raises:
            StoreUnavailableError: the key cannot be read.
        """
        handle = handle_of(value)
        if handle is None:
            return value
        if self._seals is None:
            raise StoreUnavailableError("a row lies under a key, and this store was opened without keys.")
        box = self._seals.box_at_hand(handle)
        if box is None:
            try:
                async with asyncio.timeout(timeout_s):
                    box = await self._seals.box_of(handle)
            except (TimeoutError, KeysUnavailableError) as error:
                raise _unavailable(error, timeout_s) from error
        if box is None:
            self._unopened.labels("key erased").inc()
            return None
        try:
            return open_value(value, handle, box, about=about)
        except (InvalidTag, ValueError):
            self._unopened.labels("changed").inc()
            return None

    def is_sealed(self, value: bytes) -> bool:
        """Whether a value lies under a key, or needs none here."""
        return self._seals is None or handle_of(value) is not None

    async def renew(self) -> None:
        """Let go of all keys."""
        if self._seals is not None:
            await self._seals.renew()


def _unavailable(error: Exception, timeout_s: float) -> StoreUnavailableError:
    if isinstance(error.__cause__, StoreUnavailableError):
        return error.__cause__  # keys come over the store's own connections: what these say, it says by itself
    if isinstance(error, KeysUnavailableError):
        return StoreUnavailableError(error.message, fix=error.fix)
    return StoreUnavailableError(f"the key of a row did not come within {timeout_s:g} s.")
