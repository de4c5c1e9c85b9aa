"""A traveller's call: sealed by an edge elsewhere, opened here, answered under a key that only the sealer has."""

from msgspec.structs import replace

from infra.contracts.messages import RelayedCall, SealedAnswer, SealedCall
from infra.contracts.residency import encode_regional
from infra.plumbing.clock import Clock
from infra.plumbing.errors import AtollError, InvalidInputError, UnauthorizedError
from infra.plumbing.http.problems import problem_body, status_of
from infra.plumbing.keys import RegionKeys, Trust
from infra.plumbing.sealing import open_call, seal_reply
from infra.plumbing.tokens import open_subject, verify_token
from region.api.checking import check_request
from region.api.choices import Choices
from region.api.decoding import decode_batch, decode_body
from region.api.ports import EventTaker, ListMaker


class RelayDesk:
    """Answers sealed calls. Who is named inside is read here and nowhere before."""

    def __init__(
        self,
        *,
        keys: RegionKeys,
        trust: Trust,
        clock: Clock,
        recommender: ListMaker,
        intake: EventTaker,
        choices: Choices,
    ) -> None:
        self._keys = keys
        self._trust = trust
        self._clock = clock
        self._recommender = recommender
        self._intake = intake
        self._choices = choices

    async def answer(self, call: SealedCall, request_id: str) -> SealedAnswer:
        """The sealed answer; errors of the call inside are sealed too.

        Raises:
            InvalidInputError: the box is not for this region or was changed on the way.
        """
        if call.home != self._keys.region:
            raise InvalidInputError("the sealed call is for another region.", fix="Send it to its home region.")
        opened, reply_key = open_call(self._keys.relay_private, call.sealed)
        try:
            status, body = 200, await self._handle(opened, request_id)
        except AtollError as error:
            status, title = status_of(error)
            body = problem_body(status, title, str(error), request_id)
        return SealedAnswer(status=status, sealed=seal_reply(reply_key, body))

    async def _handle(self, opened: bytes, request_id: str) -> bytes:
        call = decode_body(opened, RelayedCall)
        subject = self._subject_of(call.token)
        # The subject is the token's, whatever the call itself claims.
        if sum(part is not None for part in (call.request, call.events, call.opted_out)) != 1:
            raise InvalidInputError("a sealed call holds either a request or events or a choice.")
        if call.request is not None:
            check_request(call.request)
            owned = replace(call.request, subject=subject, request_id=call.request.request_id or request_id)
            return encode_regional(await self._recommender.home(owned))
        if call.events is not None:
            read = decode_batch(call.events)
            batch = replace(read, batch=replace(read.batch, subject=subject))
            return encode_regional(await self._intake.take_read(batch))
        return encode_regional(await self._choices.set_opt_out(subject, opted_out=bool(call.opted_out)))

    def _subject_of(self, token: str) -> str:
        principal = verify_token(token, self._trust, clock=self._clock)
        if principal.home != self._keys.region:
            raise UnauthorizedError("the token's home is another region.")
        return open_subject(principal, self._keys)
