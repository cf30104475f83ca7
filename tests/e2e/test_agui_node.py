"""The unmodified HttpAgent of @ag-ui/client, under node, against a real `perdure up`: it completes, is interrupted and
resumes, is killed in the middle and attaches again; and the DurableAgent of the documentation outlives its gateway.
"""

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest

from perdure.local.launch import UpProcess, launched

ROOT: Final = Path(__file__).resolve().parents[2]
HOME: Final = ROOT / "tests" / "node"
PAGE: Final = (ROOT / "docs" / "reference" / "agui.md").read_text()
SNIPPETS: Final = re.findall(r"^```js\n(.*?)^```", PAGE, re.M | re.S)
SECONDS: Final = 60
FLOWS: Final = '''
import asyncio
import os
from pathlib import Path

from msgspec import Struct

from perdure import Context, workflow


class Draft(Struct):
    topic: str
    tone: str
    message: str


GO = Path(os.environ["AGUI_GO"])


@workflow
async def chat(ctx: Context, message: str) -> str:
    """Say it back, word by word; the second half only once the test says so."""

    async def draft() -> str:
        ctx.delta("You said: ")
        while not GO.exists():
            await asyncio.sleep(0.02)
        ctx.delta(message)
        return f"You said: {message}"

    return await ctx.step("draft", draft)


@workflow
async def publish(ctx: Context, draft: Draft) -> str:
    """Ask before publishing. The draft comes out of the state, its message from the user."""
    title, proposal = f"Publish {draft.topic}?", {"tone": draft.tone}
    answer = await ctx.ask("review", title=title, actions=["approve", "reject"], proposal=proposal)
    return f"{draft.topic}, {draft.message}: {answer.action} by {answer.by}"


@workflow
async def broken(ctx: Context, message: str) -> str:
    """Fail for good."""
    raise ValueError("nothing works")
'''


@pytest.fixture
def node(request: pytest.FixtureRequest) -> str:
    """Where node is, with what `npm ci` installs."""
    found, name = shutil.which("node"), request.node.name
    if found is None:
        pytest.skip(f"{name}: node is not on this machine (Debian: apt-get install nodejs npm)")
    if not (HOME / "node_modules" / "@ag-ui" / "client").is_dir():
        pytest.skip(f"{name}: @ag-ui/client is not installed (npm ci in tests/node; make test does it with npm)")
    return str(found)


class Node:
    """A process of node that runs one agent. What it writes is read as it comes."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self.process = process
        self.events: list[dict[str, Any]] = []

    async def until(self, done: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """The next event that is `done`."""
        async with asyncio.timeout(SECONDS):
            while (line := await self._line()) is not None:
                self.events.append(line["event"])
                if done(line["event"]):
                    return self.events[-1]
        raise AssertionError(f"it ended behind {[e['type'] for e in self.events]}: {await self._complaints()}")

    async def end(self) -> dict[str, Any]:
        """What the client has in the end. It has warned of nothing: no member and no event was unknown to it."""
        async with asyncio.timeout(SECONDS):
            while (line := await self._line()) is not None:
                if "last" in line:
                    assert await self._complaints() == ""
                    await self.process.wait()
                    last: dict[str, Any] = line["last"]
                    return last
                self.events.append(line["event"])
        raise AssertionError(f"no last word: {await self._complaints()}")

    def kinds(self) -> list[str]:
        """The types of the events so far."""
        return [event["type"] for event in self.events]

    async def _line(self) -> dict[str, Any] | None:
        assert self.process.stdout is not None
        line = await self.process.stdout.readline()
        return None if not line else json.loads(line)

    async def _complaints(self) -> str:
        assert self.process.stderr is not None
        return (await self.process.stderr.read()).decode()


class World:
    """A running Perdure with the flows above, and agents against it."""

    def __init__(self, up: UpProcess, node: str, here: Path, go: Path) -> None:
        self.up, self._node, self._here, self.go = up, node, here, go
        self._running: list[Node] = []

    async def agent(self, flow: str, run: str = "r1", **told: Any) -> Node:
        """Start an agent."""
        user = {"id": "u1", "role": "user", "content": told.pop("text", "tea")}
        base = {"url": self.up.url, "key": self.up.client.key, "flow": flow, "threadId": "t1", "runId": run}
        process = await asyncio.create_subprocess_exec(
            self._node,
            str(self._here / "agui.mjs"),
            json.dumps(base | {"messages": [user]} | told),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            limit=16 * 1024 * 1024,
        )
        self._running.append(Node(process))
        return self._running[-1]

    async def end(self) -> None:
        """Kill whatever still runs."""
        for each in self._running:
            if each.process.returncode is None:
                each.process.kill()
                await each.process.wait()


@pytest.fixture
async def world(node: str, tmp_path: Path, environ: dict[str, str]) -> AsyncIterator[World]:
    here, go = tmp_path / "node", tmp_path / "go"
    here.mkdir()
    (here / "node_modules").symlink_to(HOME / "node_modules")
    shutil.copy(HOME / "agui.mjs", here)
    (here / "package.json").write_text('{"type": "module"}')
    (here / "durable.mjs").write_text(snippet("class DurableAgent"))
    (tmp_path / "agents.py").write_text(FLOWS)
    app = environ | {"PYTHONPATH": f"{tmp_path}:{environ.get('PYTHONPATH', '')}", "AGUI_GO": str(go)}
    async with (
        launched(tmp_path / "data", "--app", "agents", environ=app, log=tmp_path / "up.log") as up,
        ended(World(up, node, here, go)) as world,
    ):
        yield world


@asynccontextmanager
async def ended(world: World) -> AsyncIterator[World]:
    try:
        yield world
    finally:
        await world.end()


def snippet(holding: str) -> str:
    """The one piece of the documentation that holds this."""
    [found] = [text for text in SNIPPETS if holding in text]
    return str(found)


def texts(last: dict[str, Any]) -> list[str]:
    return [m["content"] for m in last["messages"] if m["role"] in ("user", "assistant")]


def words(event: dict[str, Any]) -> bool:
    """A text is open: it began, or the prelude had it."""
    return bool(event["type"] == "TEXT_MESSAGE_START")


async def test_it_completes_streams_and_has_the_answer(world: World) -> None:
    world.go.touch()
    agent = await world.agent("chat", state={"theme": "dark"})
    last = await agent.end()
    assert last["result"] == {"result": "You said: tea"}
    assert texts(last) == ["tea", "You said: tea"]
    assert (last["state"]["theme"], last["state"]["perdure"]["status"]) == ("dark", "completed")
    assert (agent.kinds()[0], agent.kinds()[-1]) == ("RUN_STARTED", "RUN_FINISHED")
    again = await (await world.agent("chat", messages=[])).end()  # the same run, long over
    assert (again["result"], texts(again)) == (last["result"], texts(last))


async def test_it_is_interrupted_and_resumes(world: World) -> None:
    asked = await (await world.agent("publish", text="soon", state={"topic": "tea", "tone": "warm"})).end()
    assert [i["reason"] for i in asked["pending"]] == ["confirmation"]
    answer = {"status": "resolved", "payload": {"approved": True}}
    agent = await world.agent("publish", messages=[], answer=answer)  # a new process, which knows the ids alone
    last = await agent.end()
    assert last["result"] == {"result": "tea, soon: approve by service:first"}
    assert (last["interrupted"], last["pending"]) == (1, [])
    [interrupt] = next(e for e in agent.events if e["type"] == "RUN_FINISHED")["outcome"]["interrupts"]
    assert (interrupt["reason"], interrupt["metadata"]["perdure"]["proposal"]) == ("confirmation", {"tone": "warm"})


async def test_it_is_killed_in_the_middle_of_a_word_and_attaches_again_with_the_ids_alone(world: World) -> None:
    first = await world.agent("chat")
    await first.until(words)
    first.process.kill()
    await first.process.wait()
    second = await world.agent("chat", messages=[])
    prelude = await second.until(lambda event: event["type"] == "MESSAGES_SNAPSHOT")
    assert [m["content"] for m in prelude["messages"]] == ["tea", "You said: "]
    world.go.touch()
    last = await second.end()
    assert texts(last) == ["tea", "You said: tea"]
    assert last["result"] == {"result": "You said: tea"}


async def test_its_runner_is_killed_and_the_words_of_the_dead_attempt_are_taken_back(world: World) -> None:
    agent = await world.agent("chat")
    await agent.until(words)
    world.up.kill("runner-1")
    await agent.until(lambda event: event["type"] == "TEXT_MESSAGE_END")
    taken_back = await agent.until(lambda event: event["type"] == "MESSAGES_SNAPSHOT")
    assert [m["content"] for m in taken_back["messages"]] == ["tea"]
    world.go.touch()
    assert texts(await agent.end()) == ["tea", "You said: tea"]


async def test_the_durable_agent_of_the_documentation_outlives_drain_and_death_of_its_gateway(world: World) -> None:
    agent = await world.agent("chat", durable=True)
    for sign in (signal.SIGTERM, signal.SIGKILL):
        await agent.until(words if sign == signal.SIGTERM else lambda event: event["type"] == "RUN_STARTED")
        os.kill(world.up.processes()["gateway"], sign)
    await agent.until(lambda event: event["type"] == "RUN_STARTED")
    world.go.touch()
    last = await agent.end()
    assert agent.kinds().count("RUN_STARTED") == 3
    assert (texts(last), last["result"]) == (["tea", "You said: tea"], {"result": "You said: tea"})


async def test_what_it_can_do_is_said_in_words_that_the_client_knows(world: World) -> None:
    last = await (await world.agent("chat", capabilities=True)).end()
    assert last["unknown"] == []
    assert last["shown"]["humanInTheLoop"]["interrupts"] is True


async def test_a_failed_run_and_a_fault_before_the_stream_reach_the_client_as_what_they_are(world: World) -> None:
    failed = await world.agent("broken")
    last = await failed.end()
    assert failed.kinds()[-1] == "RUN_ERROR"
    assert failed.events[-1]["message"] == "ValueError: nothing works"
    refused = await world.agent("nothing-here")
    async with asyncio.timeout(SECONDS):
        out, _ = await refused.process.communicate()
    last = json.loads(out.splitlines()[-1])["last"]
    assert (last["error"]["status"], last["error"]["payload"]["code"]) == (404, "not-found")


def test_every_snippet_of_the_documentation_parses(node: str, tmp_path: Path) -> None:
    assert len(SNIPPETS) == 2
    for number, text in enumerate(SNIPPETS):
        file = tmp_path / f"{number}.mjs"
        file.write_text(text)
        subprocess.run([node, "--check", str(file)], check=True, timeout=SECONDS)
