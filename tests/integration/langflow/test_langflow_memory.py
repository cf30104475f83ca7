"""What a job is told of what other jobs of its session have said."""

from typing import Any

from tests.integration.langflow.conftest import Api, step

from perdure.bus.callbodies import MessagesOf
from perdure.core import event as ev
from perdure.testing.hand import Hand
from perdure_gateway.keys import DELETED, DESK, SQL
from perdure_gateway.sessions import Sessions


async def said(api: Api, text: str) -> Hand:
    """A job of the session `s` in which somebody said `text`."""
    hand = await api.background(session_id="s")
    await hand.start()
    original: dict[str, Any] = {"id": text, "text": text}
    await hand.add(ev.MessageData(message_id=text, role="user", text=text, step="brief", original=original))
    await step(hand, "brief", text)
    await hand.complete(out=text)
    return hand


async def test_a_job_that_was_deleted_meanwhile_is_left_out_and_the_others_are_told(api: Api, project: Any) -> None:
    first, gone, last = [await said(api, text) for text in ("a", "b", "c")]
    asking = await api.background(session_id="s")
    for hand in (first, gone, last, asking):
        await project(hand)
    app = api.gateway.app
    app[DELETED].note(gone.ref)  # the rows say nothing of it yet
    told = await Sessions(app[DESK], app[SQL]).messages(MessagesOf(tenant=asking.ref.tenant, job=asking.ref.job))
    assert [message["text"] for message in told.messages] == ["a", "c"]
