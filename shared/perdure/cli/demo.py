"""`perdure demo`: the whole promise in under a minute, on real parts; exit 1 when anything of the story went otherwise.

Everything runs as it does for users: `perdure up` as a process, the HTTP API, a runner that is killed with SIGKILL.
What is claimed is read from the events that came over the stream, and compared with the log as replayed from 0.
"""

import asyncio
import os
import shutil
import signal
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from pathlib import Path
from typing import Annotated, Final

import msgspec
from cyclopts import Parameter

from perdure.cli.examples import example
from perdure.cli.people import ask_on_terminal
from perdure.cli.render import EventPrinter, describe, words
from perdure.cli.session import Exit, Printer
from perdure.client import Client, Delta, Event, Frame, UnknownEvent
from perdure.clock import Clock, SystemClock
from perdure.config import PREFIX, ClientSettings
from perdure.core import event as ev
from perdure.core.event import TERMINAL, AnyEvent
from perdure.core.instant import Instant, moment
from perdure.errors import PerdureError
from perdure.local.launch import UpProcess, launched, tail

FLOW: Final = "content_approval"
MODEL_STEP: Final = "draft"
DEFAULT_TEXT: Final = "Perdure keeps its promises: a job that lost its runner goes on where it was."
STORY_SECONDS: Final = 55.0  # without a person
TOKENS_BEFORE_KILL: Final = 3
MODEL_SECONDS: Final = 3.0  # how long the local server takes for its words, so that there is a middle to be killed in
KEPT: Final = ("PERDURE_MODEL_", "PERDURE_NATS_SERVER", "PERDURE_LOG_LEVEL", "PERDURE_FAILPOINTS")


class Otherwise(PerdureError):
    """The story cannot go on: something that had to happen did not."""


async def demo(
    *,
    text: Annotated[str, Parameter(help="What the post shall be about.")] = DEFAULT_TEXT,
    no_input: Annotated[bool, Parameter(negative="", help="Ask nobody: approve by HTTP.")] = False,
    keep: Annotated[bool, Parameter(negative="", help="Keep the data folder.")] = False,
) -> int:
    """Show it: a job streams, loses its runner, goes on, asks a person, completes; nothing is lost or said twice."""
    ClientSettings.load()  # an unknown PERDURE_ name stops the demo as it stops everything
    printer = Printer()
    folder = Path(tempfile.mkdtemp(prefix="perdure-demo-"))
    story = Story(printer, SystemClock(), text, ask=printer.interactive and not no_input)
    log = folder / "up.log"
    try:
        async with AsyncExitStack() as stack:
            environ = await _environ(stack, printer, text)
            up = await stack.enter_async_context(launched(folder / "data", environ=environ, log=log))
            printer.hint(f"perdure up runs at {up.url}: broker, gateway, runner and sweeper, data in {up.data}")
            found = up.client
            async with (
                Client(found.url, str(found.key)) as client,
                asyncio.timeout(None if story.ask else STORY_SECONDS),
            ):
                await story.tell(up, client)
            story.check(await up.stop() == 0, "SIGTERM ended everything in order")
    except (PerdureError, TimeoutError) as exc:
        why = "it took too long" if isinstance(exc, TimeoutError) else str(exc)
        story.check(False, f"the story went otherwise: {why}")
    finally:
        story.events.end()
        if story.failed and log.exists():
            printer.err.print(f"the end of {log}:\n{tail(log)}")
        if keep or story.failed:
            printer.hint(f"kept: {folder}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
    return Exit.FAILED if story.failed else Exit.DONE


class Story:
    """The story as it is told: what was seen, and whether it went as promised."""

    def __init__(self, printer: Printer, clock: Clock, text: str, *, ask: bool) -> None:
        self.ask, self.failed = ask, False
        self.events = EventPrinter(printer)
        self._printer, self._clock, self._text = printer, clock, text
        self._frames: list[Frame] = []  # every event frame of all connections, in the order in which it came
        self._log: list[AnyEvent] = []
        self._tokens: Counter[int] = Counter()  # by attempt
        self._killed_at: Instant | None = None
        self._offset = 0
        self._repaired = 0  # repeats and holes that the client had to hide

    def check(self, holds: bool, claim: str) -> None:
        """Say whether a claim holds."""
        self.events.end()
        self.failed = self.failed or not holds
        self._printer.text(f"{'✓' if holds else '✗'} {claim}", "green" if holds else "bold red")

    def say(self, line: str) -> None:
        """A line of the teller."""
        self.events.end()
        self._printer.text(f"— {line}", "bold")

    async def tell(self, up: UpProcess, client: Client) -> None:
        """The story. Raises Otherwise where it cannot go on."""
        flow = await client.push_flow(FLOW, example(FLOW))
        job = (await client.submit(flow.name, self._text)).id
        self.say(f"submitted {job} of {flow.name} v{flow.version}; following its events from 0")
        await self._lose_the_runner(up, client, job)
        asked = await self._until_asked(client, job)
        await self._answer(client, asked)
        await self._until_end(client, job)
        await self._compare(client, job)
        self._where_the_time_went()

    async def _lose_the_runner(self, up: UpProcess, client: Client, job: str) -> None:
        async with aclosing(self._follow(client, job)) as said:
            async for word in said:
                if self._killed_at is None and self._tokens[1] >= TOKENS_BEFORE_KILL:
                    pid = up.kill("runner-1")
                    self._killed_at = self._clock.broker_now()
                    self.say(f"SIGKILL for the runner (process {pid}) in the middle of the step {MODEL_STEP!r}")
                if isinstance(word, ev.StepCompleted) and word.data.step == MODEL_STEP:
                    raise Otherwise("the model step ended before its runner could be killed")
                if isinstance(word, ev.AttemptStarted) and word.attempt > 1:
                    break
        if self._log[-1].status in TERMINAL:
            raise Otherwise(f"it ended with {ev.type_of(self._log[-1])}: {describe(self._log[-1])}")
        self.check(
            self._killed_at is not None, f"the runner was killed while tokens flowed ({self._tokens[1]} had come)"
        )
        self.say(f"detached at event {self._offset}, as a client that lost its network; re-attaching from there")

    async def _until_asked(self, client: Client, job: str) -> ev.Request:
        async with aclosing(self._follow(client, job)) as said:
            async for word in said:
                if isinstance(word, ev.JobSuspended):
                    break
        takeover = [e for e in self._log if isinstance(e, ev.AttemptStarted)]
        self.check(
            [e.attempt for e in takeover] == [1, 2] and takeover[1].data.runner != takeover[0].data.runner,
            "another runner took the job over as attempt 2",
        )
        done = [e for e in self._log if isinstance(e, ev.StepCompleted) and e.data.step == MODEL_STEP]
        self.check(
            [e.attempt for e in done] == [2], f"{MODEL_STEP!r} was recorded once, by attempt 2, not by the dead one"
        )
        asked = [e.data.request for e in self._log if isinstance(e, ev.InputRequested)]
        self.check(
            len(asked) == 1 and self._text in str(asked[0].proposal), "a person is asked, with the text in the proposal"
        )
        if not asked:
            raise Otherwise("nobody was asked")
        return asked[0]

    async def _answer(self, client: Client, asked: ev.Request) -> None:
        self.say(f"the job sleeps and holds nothing; detached at event {self._offset}")
        if self.ask:
            await ask_on_terminal(client, self._printer, asked.id)
            return
        await client.answer(await client.request(asked.id), "approve")
        self.say("nobody sits at a terminal: approved over HTTP")

    async def _until_end(self, client: Client, job: str) -> None:
        self.say(f"re-attaching from event {self._offset}")
        async with aclosing(self._follow(client, job)) as said:
            async for _ in said:
                pass
        last = self._log[-1]
        if not isinstance(last, ev.JobCompleted):
            raise Otherwise(f"the last event is {ev.type_of(last)}")
        self.check(
            len([e for e in self._log if e.status in TERMINAL]) == 1, "the job completed, with one terminal event"
        )
        answered = [e.data for e in self._log if isinstance(e, ev.InputAnswered)]
        edited = any(data.edited for data in answered)
        self.check(
            len(answered) == 1 and (edited or any(self._text in str(v) for v in last.data.outputs.values())),
            "the final output has the text in it" if not edited else "the final output is the text as it was edited",
        )
        for name, value in last.data.outputs.items():
            self._printer.text(f"\n{name}:\n{words(value, 10_000) if not isinstance(value, str) else value}\n")

    async def _compare(self, client: Client, job: str) -> None:
        """What was seen over three connections against one replay from 0 and the job itself."""
        seen = [frame.seq for frame in self._frames]
        whole = seen == list(range(1, len(seen) + 1)) and not self._repaired
        self.check(whole, f"events 1 to {len(seen)} came in order, none missing, none twice")
        replay = [frame async for frame in client.events(job, deltas=False).frames()]
        self.check(replay == self._frames, "a replay from 0 says the same, byte for byte")
        keys = Counter(
            (e.data.path, e.data.step, e.data.occurrence) for e in self._log if isinstance(e, ev.StepCompleted)
        )
        self.check(bool(keys) and max(keys.values()) == 1, f"{len(keys)} steps are recorded, each once")
        found = await client.job(job)
        self.check(found.status == "completed" and found.seq == len(seen), "and so says the job itself")

    async def _follow(self, client: Client, job: str) -> AsyncGenerator[Event | Delta, None]:
        stream = client.events(job, after=self._offset)
        async with aclosing(stream.frames()) as frames:
            async for frame in frames:
                said = self.events.show(frame)
                if isinstance(said, Delta):
                    self._tokens[said.attempt] += said.type == "delta.text"
                elif isinstance(said, UnknownEvent) or said is None:
                    raise Otherwise(f"an event that this version does not know: {frame.type}")
                else:
                    self._frames.append(frame)
                    self._log.append(said)
                    self._offset = said.seq
                self._repaired = max(self._repaired, stream.repeated + stream.holes)
                yield said

    def _where_the_time_went(self) -> None:
        first, second = (
            e.at for e in self._log if isinstance(e, ev.AttemptStarted) and e.attempt < 3 and not e.data.cause
        )
        points = [
            ("queue", self._log[0].at, first),
            ("attempt 1, until it was killed", first, self._killed_at),
            ("until another attempt took over", self._killed_at, second),
            ("attempt 2, until it asked", second, self._at(ev.JobSuspended)),
            ("a person", self._at(ev.JobSuspended), self._at(ev.InputAnswered)),
            ("from the answer to the end", self._at(ev.InputAnswered), self._log[-1].at),
        ]
        self.say("where the time went")
        for name, start, end in points:
            if start is None or end is None:
                continue
            self._printer.text(f"  {(moment(end) - moment(start)).total_seconds():7.2f} s  {name}")

    def _at(self, kind: type[AnyEvent]) -> Instant | None:
        return next((e.at for e in self._log if isinstance(e, kind)), None)


# ------------------------------------------------------------------------------------------------ the model


async def _environ(stack: AsyncExitStack, printer: Printer, text: str) -> dict[str, str]:
    """The environment of `up`: the person's own, but for PERDURE_* that would lead it elsewhere; with a model in it."""
    environ = {k: v for k, v in os.environ.items() if not k.startswith(PREFIX) or k.startswith(KEPT)}
    if "PERDURE_MODEL_URL" in environ:
        printer.hint(f"the model: {environ['PERDURE_MODEL_URL']}")
        return environ
    url = await stack.enter_async_context(_local_model(text))
    printer.hint(
        "no PERDURE_MODEL_URL is set: the words come from a local test server that speaks the protocol, no model"
    )
    return environ | {"PERDURE_MODEL_URL": url, "PERDURE_MODEL_KEY": "local", "PERDURE_MODEL_NAME": "local"}


@asynccontextmanager
async def _local_model(text: str) -> AsyncIterator[str]:
    """The chat model server as a process of its own; its address."""
    delay = MODEL_SECONDS * 1000 / (len(text.split()) + 12)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "perdure.testing.chatmodel", "--port", "0", "--delay-ms", f"{delay:.1f}",
        stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout is not None  # a pipe
        line = await process.stdout.readline()
        yield str(msgspec.json.decode(line)["url"])
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()
