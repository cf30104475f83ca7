"""docs/howto/ask-a-person.md: its code does what the page says."""

import re
from pathlib import Path
from typing import Any, Final

from perdure import Workflow
from perdure.core import event as ev
from perdure.testing.memory import MemoryJob

PAGE: Final = (Path(__file__).parents[2] / "docs" / "howto" / "ask-a-person.md").read_text()
BLOCKS: Final = re.findall(r"^```python\n(.*?)^```", PAGE, re.M | re.S)


def flow(block: str) -> Workflow:
    names: dict[str, Any] = {"__name__": "how_to"}
    exec(compile(block, "ask-a-person.md", "exec"), names)
    [found] = [value for value in names.values() if isinstance(value, Workflow)]
    return found


async def test_a_holiday_is_granted_for_the_days_that_are_left() -> None:
    holiday, job = flow(BLOCKS[0]), MemoryJob({"name": "ann", "days": 20})
    await job.run(holiday)
    asked = job.open_request("grant")
    assert asked.response_schema is not None
    assert asked.response_schema["required"] == ["days"]
    assert asked.assignees == ev.Assignees(groups=("leads",))
    job.answer("grant", "grant", {"days": 20})
    await job.run(holiday)
    again = job.open_request("grant")
    assert (again.reasks, again.defaults) == (asked.id, {"days": 20})
    assert again.errors[1] == ev.Wrong(pointer="/payload/days", detail="at most 12")
    job.answer("grant", "grant", {"days": 12})
    await job.run(holiday)
    assert job.outputs == {"result": "12 days booked for ann"}


async def test_a_holiday_is_refused_or_nobody_decides() -> None:
    holiday = flow(BLOCKS[0])
    refused = MemoryJob({"name": "ann", "days": 2})
    await refused.run(holiday)
    refused.answer("grant", "refuse", {}, comment="in May, please")
    await refused.run(holiday)
    assert refused.outputs == {"result": "refused: in May, please"}
    late = MemoryJob({"name": "ann", "days": 2})
    await late.run(holiday)
    late.clock.advance(3 * 86_400)
    await late.run(holiday)
    assert late.open_request("grant").assignees == ev.Assignees(users=("boss",), groups=("leads",))
    late.clock.advance(4 * 86_400)
    await late.run(holiday)
    assert late.outputs == {"result": "nobody decided"}


async def test_an_assistant_acts_as_it_was_approved() -> None:
    assistant = flow(BLOCKS[1])
    for action, said, result in (
        ("approve", {}, "sent to ann@example.com"),
        ("edit", {"proposal": {"name": "send", "arguments": {"to": "bob", "text": "Hi"}}}, "sent to bob"),
        ("respond", {"comment": "I called her."}, "I called her."),
    ):
        job = MemoryJob("Hello")
        await job.run(assistant)
        job.answer("send", action, **said)
        await job.run(assistant)
        assert job.outputs == {"result": result}


def test_the_page_names_the_examples_that_there_are() -> None:
    for name in re.findall(r"`(examples/\w+\.py)`", PAGE):
        assert (Path(__file__).parents[2] / name).exists()
    assert len(BLOCKS) == 2
