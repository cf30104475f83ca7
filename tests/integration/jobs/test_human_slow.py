"""Whoever takes long to be looked up: what time has decided meanwhile goes before what he says."""

from collections.abc import Awaitable, Callable

import pytest

from perdure.core import event as ev
from perdure.core.instant import later
from perdure.core.request import Answer, Standing
from perdure.errors import Expired
from perdure.ids import Principal
from perdure.jobs.answer import answer
from perdure.jobs.desk import Desk
from perdure.jobs.submit import Submission, submit
from perdure.testing.hand import Hand


async def test_an_answer_is_late_when_its_author_was_looked_up_too_slowly(
    desk: Desk, submission: Submission, eventually: Callable[..., Awaitable[None]]
) -> None:
    hand = Hand(desk, (await submit(desk, submission)).ref)
    await hand.start()
    end = later(desk.clock.broker_now(), 0.5)
    asked = await hand.ask(expires_at=end)

    async def over() -> bool:
        return desk.clock.broker_now() >= end

    async def slowly() -> Standing:
        await eventually(over)
        return Standing(Principal("user:bob"), rights=frozenset({"read", "execute", "answer"}))

    with pytest.raises(Expired):
        await answer(desk, hand.ref.tenant, asked, slowly, Answer(action="approve"), ev.Via(channel="api"))
    [*_, last] = await desk.eventlog.read(hand.ref)
    assert isinstance(last.event, ev.InputExpired)
