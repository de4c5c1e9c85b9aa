"""Work aside: its result, its failure, and whose priority is lowered."""

import contextvars
import os
import sys

import pytest

from infra.plumbing.aside import NICENESS, aside


async def test_work_aside_gives_back_what_it_made_or_raised() -> None:
    named: contextvars.ContextVar[str] = contextvars.ContextVar("named")
    named.set("here")

    def made(one: int, *, two: int) -> tuple[int, int, str]:
        return one, two, named.get()

    assert await aside(made, 1, two=2) == (1, 2, "here")
    with pytest.raises(ZeroDivisionError):
        await aside(lambda: 1 // 0)


@pytest.mark.skipif(sys.platform != "linux", reason="threads have a priority of their own on Linux")
async def test_only_the_thread_that_works_gives_way() -> None:
    def niceness() -> int:
        return os.getpriority(os.PRIO_PROCESS, 0)

    before = niceness()
    assert await aside(niceness) == min(19, before + NICENESS)
    assert niceness() == before
