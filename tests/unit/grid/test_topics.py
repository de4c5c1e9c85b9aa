import asyncio
import gc

import pytest

from infra.plumbing.grid.topics import Subscription, Topics


async def test_an_overflow_becomes_one_none() -> None:
    subscription = Subscription(queue_max=3)
    for number in range(5):
        subscription.offer(str(number).encode())
    assert subscription.overflows == 1
    assert [await anext(subscription) for _ in range(3)] == [None, b"3", b"4"]


async def test_nones_in_a_row_are_one() -> None:
    subscription = Subscription()
    subscription.offer(None)
    subscription.offer(None)
    subscription.offer(b"x")
    assert [await anext(subscription), await anext(subscription)] == [None, b"x"]


async def test_a_waiting_subscriber_is_woken_and_ended() -> None:
    subscription = Subscription()

    async def take_all() -> list[bytes | None]:
        return [message async for message in subscription]

    waiting = asyncio.create_task(take_all())
    await asyncio.sleep(0)
    subscription.offer(b"x")
    await asyncio.sleep(0)
    subscription.close()
    assert await waiting == [b"x"]
    subscription.offer(b"late")
    with pytest.raises(StopAsyncIteration):
        await anext(subscription)


async def test_a_subscription_nobody_holds_is_forgotten() -> None:
    topics = Topics()
    held, dropped = Subscription(), Subscription()
    topics.add("t", held)
    topics.add("u", dropped)
    del dropped
    gc.collect()
    assert list(topics) == ["t"]
    topics.offer("u", b"x")
    topics.offer("t", b"y")
    assert await anext(held) == b"y"
