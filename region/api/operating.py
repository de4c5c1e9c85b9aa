"""The operators' doors of this room: withdrawing items and seeing how the node does.

Pulling, promoting and rolling back have their own room (`region.releases`).
"""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from aiohttp import web

from infra.contracts.messages import Invalidation
from infra.contracts.residency import encode_global
from infra.plumbing.errors import ConflictError
from region.api.announcing import Announcer
from region.api.checking import check_withdrawal
from region.api.decoding import decode_body, read_body
from region.api.doors import Door
from region.api.messages import StatusAnswer, WithdrawAnswer, WithdrawCall
from region.api.routes import json_response
from region.releases.operations import Operations
from region.rules.regional import Withdrawals


@dataclass(frozen=True, slots=True, kw_only=True)
class OperatorDoors:
    """Handlers of `/operator/v1/...` for items and status."""

    withdrawals: Withdrawals
    announcer: Announcer
    operators_only: Door
    operations: Operations
    status: Callable[[], StatusAnswer]
    body_bytes_max: int

    def routes(self) -> list[web.RouteDef]:
        """The routes to put into the application."""
        return [
            web.post("/operator/v1/items/withdraw", self.withdraw),
            web.get("/operator/v1/status", self.show_status),
        ]

    async def withdraw(self, request: web.Request) -> web.Response:
        """Withdraw and restore items: durable, then in force here, then told to the edges, and audited."""
        operator = self.operators_only(request)
        call = decode_body(await read_body(request, bytes_max=self.body_bytes_max), WithdrawCall)
        check_withdrawal(call)
        self._check_restored(call)
        await asyncio.to_thread(self.withdrawals.change, withdrawn=call.withdrawn, restored=call.restored)
        restored = tuple(item for item in call.restored if item not in self.withdrawals.items)
        told = await self.announcer.tell(Invalidation(withdrawn=call.withdrawn, restored=restored))
        for action, items in (("withdraw", call.withdrawn), ("restore", call.restored)):
            if items:
                await self.operations.noted(operator, action, f"{len(items)}: {' '.join(items)}")
        answer = WithdrawAnswer(withdrawn_total=len(self.withdrawals.items), edges_told=told)
        return json_response(encode_global(answer))

    def _check_restored(self, call: WithdrawCall) -> None:
        held = sorted(self.withdrawals.published.intersection(call.restored))
        if held:
            raise ConflictError(
                f"{held[0][:60]!r} is withdrawn by the region's published items.",
                fix="Publish them without it: ./atoll region REGION items collect, items publish.",
            )

    async def show_status(self, request: web.Request) -> web.Response:
        """The node at a glance."""
        self.operators_only(request)
        return json_response(encode_global(self.status()))
