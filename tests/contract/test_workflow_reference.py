"""docs/reference/workflow.md: every member of the context is there, and every example gives what it says."""

import json
import re
from pathlib import Path
from typing import Any, Final

import pytest

from perdure import Context, Workflow
from perdure.core import codec
from perdure.engine import attempt, context, ends, people
from perdure.testing.memory import MemoryJob

PAGE: Final = (Path(__file__).parents[2] / "docs" / "reference" / "workflow.md").read_text()
EXAMPLES: Final = re.findall(r"```python\n(.*?)```\n```json\n(.*?)```", PAGE, re.DOTALL)
INPUT: Final = re.compile(r"\A# input: (.*)")
SAID: Final = re.compile(r"^# said: (.*)", re.M)  # the payloads of the answers, in their order


def members() -> list[str]:
    return [name for name in dir(Context) if not name.startswith("_")]


@pytest.mark.parametrize("name", members())
def test_every_member_of_the_context_is_described(name: str) -> None:
    assert re.search(rf"(### |\*\*)ctx\.{name}\b", PAGE), f"ctx.{name} is not in docs/reference/workflow.md"


def test_nothing_is_described_that_is_not_there() -> None:
    assert set(re.findall(r"(?:### |\*\*)ctx\.(\w+)", PAGE)) == set(members())


def test_every_block_of_code_is_an_example_with_what_it_gives() -> None:
    assert len(EXAMPLES) == PAGE.count("```python") >= 8


@pytest.mark.parametrize(
    ("code", "wanted"), EXAMPLES, ids=[re.findall(r"async def (\w+)\(ctx", c)[-1] for c, _ in EXAMPLES]
)
async def test_an_example_gives_what_it_says(code: str, wanted: str) -> None:
    names: dict[str, Any] = {"__name__": "example"}
    exec(compile(code, "workflow.md", "exec"), names)
    (flow,) = [value for value in names.values() if isinstance(value, Workflow)]
    given = INPUT.match(code)
    job = MemoryJob(None if given is None else json.loads(given[1]))
    said = [json.loads(payload) for payload in SAID.findall(code)]
    for _ in range(20):
        await job.run(flow)
        if job.state.terminal:
            break
        assert job.state.suspension is not None
        for wait in job.state.suspension.data.waiting:
            match wait.kind:
                case "input":
                    job.answer(str(wait.request_id), "approve", said.pop(0) if said else None)
                case "signal":
                    job.signal(str(wait.name), f"signal {wait.name}")
                case "child":
                    job.end_child(str(wait.name), {"result": f"child {wait.name}"})
                case _:
                    pass
    assert job.state.status == "completed", job.log[-1]
    assert job.outputs == json.loads(wanted)


def test_the_limits_are_those_of_the_code() -> None:
    assert codec.MAX_VALUE_BYTES == 64 * 1024 * 1024
    assert codec.INLINE_VALUE_BYTES == 128 * 1024
    assert (people.MAX_NAME, context.MAX_OUTPUTS, ends.MAX_WAITING) == (128, 100, 200)
    assert (attempt.HANG_SECONDS, attempt.CLOSE_SECONDS, attempt.SHORT_WAIT_SECONDS) == (10.0, 5.0, 2.0)
