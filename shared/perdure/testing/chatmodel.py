"""A local chat model: a server that speaks the OpenAI chat-completions protocol and makes its text out of the prompt.

It is no model. Tests use it because it answers the same every time and can be told to fail; `perdure demo` uses it, and
says so, when no endpoint is configured. It listens on loopback only.

    python -m perdure.testing.chatmodel --port 0 --delay-ms 20 --fail-first 2

prints one JSON line, `{"url": "http://127.0.0.1:41234/v1"}`, and serves until SIGTERM, or until its parent is gone.
It calls the tools that the prompt names (`perdure.testing.toolcalls`).
Faults are taken in order, one for each call, then calls succeed: `POST /admin/faults {"faults": ["500", "cut"]}`.
"""

import argparse
import asyncio
import os
import re
import signal
import sys
from collections import deque
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final, NoReturn

import msgspec
from aiohttp import web
from msgspec import Struct

from perdure.clock import Clock, SystemClock
from perdure.testing.toolcalls import Message, wanted

FAULTS: Final = {
    "cut": "drops the connection in the middle of the text",
    "end": "ends the stream cleanly in the middle of the text",
    "hang": "sends some of the text, then nothing",
    "silent": "takes the call and never answers",
    "garbage": "sends a chunk that is no JSON",
    "error": "sends an error in the middle of the stream",
    "huge": "sends text without end",
    "redirect": "points to another address",
    "whole": "answers with one JSON document although a stream was asked for",
}  # and any status from 400 to 599
SIGNATURE: Final = "(From Perdure's local test server: no model was asked.)"
PARENT_SECONDS: Final = 0.5
RETRY_AFTER_SECONDS: Final = 1  # what a 429 asks for
_TOKEN: Final = re.compile(r"\s*\S+|\s+$")


class _Function(Struct):
    name: str


class _Tool(Struct):
    function: _Function


class _Call(Struct):
    """The members of a call that this server looks at."""

    model: str
    messages: list[Message]
    stream: bool = False
    max_tokens: int | None = None
    temperature: float | None = None
    tools: list[_Tool] = []  # called where nothing is streamed


class _Faults(Struct, forbid_unknown_fields=True):
    faults: list[str]


def answer_to(prompt: str) -> str:
    """The text that this server always gives for a prompt: the prompt is in it, word for word."""
    return f"A short post:\n\n{prompt}\n\n{SIGNATURE}"


def tokens_of(text: str) -> list[str]:
    """The pieces in which a text is streamed: words with the blanks before them. Joined, they are the text."""
    return _TOKEN.findall(text)


class ChatModel:
    """The server's state: what it was asked, and which faults are still to come. `url` is known once it listens."""

    def __init__(self, clock: Clock, *, delay_seconds: float = 0.0, key: str | None = None) -> None:
        self.url = ""
        self.calls: list[dict[str, Any]] = []  # Any: the bodies of the calls as they came
        self.authorizations: list[str | None] = []
        self.delay_seconds = delay_seconds
        self._key = key
        self._clock = clock
        self._faults: deque[str] = deque()

    def fail(self, *faults: str) -> None:
        """Let the next calls fail: a status from 400 to 599, or one of FAULTS. Raises ValueError for anything else."""
        for fault in faults:
            if fault not in FAULTS and not (fault.isdecimal() and 400 <= int(fault) <= 599):
                raise ValueError(f"no such fault: {fault!r}; known are a status from 400 to 599, {', '.join(FAULTS)}")
        self._faults.extend(faults)

    @asynccontextmanager
    async def serve(self, port: int = 0) -> AsyncIterator["ChatModel"]:
        """Listen on loopback; port 0 takes a free one."""
        app = web.Application(client_max_size=4 * 1024 * 1024)
        app.router.add_post("/v1/chat/completions", self._completions)
        app.router.add_post("/admin/faults", self._script)
        runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2, handler_cancellation=True)
        await runner.setup()
        try:
            site = web.TCPSite(runner, "127.0.0.1", port)
            await site.start()
            self.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
            yield self
        finally:
            await runner.cleanup()

    async def _script(self, request: web.Request) -> web.Response:
        try:
            self.fail(*msgspec.json.decode(await request.read(), type=_Faults).faults)
        except (msgspec.MsgspecError, ValueError) as exc:
            return web.json_response({"error": str(exc)}, status=422)
        return web.json_response({"faults": list(self._faults)})

    async def _completions(self, request: web.Request) -> web.StreamResponse:
        body = await request.read()
        authorization = request.headers.get("Authorization")
        self.authorizations.append(authorization)
        if self._key is not None and authorization != f"Bearer {self._key}":
            return _problem(401, "invalid_api_key", f"Incorrect API key provided: {authorization}.")
        try:
            call = msgspec.json.decode(body, type=_Call)
        except msgspec.MsgspecError as exc:
            return _problem(400, "invalid_request_error", str(exc))
        self.calls.append(msgspec.json.decode(body))
        fault = self._faults.popleft() if self._faults else None
        if fault is not None and fault.isdecimal():
            return _problem(int(fault), "scripted", f"this call was told to fail; it came with {authorization}")
        if fault == "redirect":
            return web.Response(status=307, headers={"Location": "http://127.0.0.1:9/v1/chat/completions"})
        if fault == "silent":
            await _nothing()
        made, told = wanted(call.messages, [tool.function.name for tool in call.tools])
        prompt = next((m.content or "" for m in reversed(call.messages) if m.role == "user"), "")
        tokens = tokens_of(answer_to(told or prompt))
        reason = "stop"
        if call.max_tokens is not None and call.max_tokens < len(tokens):
            tokens, reason = tokens[: call.max_tokens], "length"
        asked = sum(len(tokens_of(message.content or "")) for message in call.messages)
        usage = {"prompt_tokens": asked, "completion_tokens": len(tokens), "total_tokens": asked + len(tokens)}
        if not call.stream or fault == "whole":
            message: dict[str, object] = {"role": "assistant", "content": "".join(tokens)}
            if made is not None:
                message, reason = (
                    {"role": "assistant", "content": None, "tool_calls": [made.as_protocol()]},
                    "tool_calls",
                )
            choice = {"index": 0, "message": message, "finish_reason": reason}
            return web.json_response({**_HEAD, "model": call.model, "choices": [choice], "usage": usage})
        return await self._stream(request, call, tokens, reason, usage, fault)

    async def _stream(
        self, request: web.Request, call: _Call, tokens: Sequence[str], reason: str, usage: object, fault: str | None
    ) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "Cache-Control": "no-store"})
        await response.prepare(request)
        if fault in ("cut", "end", "hang", "garbage", "error"):
            tokens = tokens[: max(1, len(tokens) // 2)]
        try:
            for token in tokens:
                await _send(response, _chunk(call.model, token))
                if self.delay_seconds:
                    await self._clock.sleep(self.delay_seconds)
            if fault is None:
                await _send(response, _chunk(call.model, None, reason))
                await _send(response, {**_HEAD, "model": call.model, "choices": [], "usage": usage})
                await response.write(b"data: [DONE]\n\n")
            else:
                await self._misbehave(request, response, call.model, fault)
        except ConnectionError:
            pass  # the caller left: its business
        return response

    async def _misbehave(self, request: web.Request, response: web.StreamResponse, model: str, fault: str) -> None:
        match fault:
            case "cut":
                if request.transport is not None:
                    request.transport.abort()
            case "hang":
                await _nothing()
            case "garbage":
                await response.write(b"data: {not json\n\n")
            case "error":
                await _send(response, {"error": {"message": "overloaded", "code": "overloaded"}})
            case "huge":
                while True:
                    await _send(response, _chunk(model, "more " * 4000))
            case _:  # "end"
                return


async def _nothing() -> NoReturn:
    """Until the caller leaves, which cancels the handler."""
    await asyncio.get_running_loop().create_future()
    raise AssertionError("nobody resolves it")


_HEAD: Final = {"id": "chatcmpl-local", "object": "chat.completion.chunk", "created": 0}


def _chunk(model: str, token: str | None, reason: str | None = None) -> dict[str, object]:
    delta = {} if token is None else {"content": token}
    return {**_HEAD, "model": model, "choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}


async def _send(response: web.StreamResponse, chunk: object) -> None:
    await response.write(b"data: " + msgspec.json.encode(chunk) + b"\n\n")


def _problem(status: int, code: str, message: str) -> web.Response:
    """An error as the protocol has it. The message repeats the credential on purpose: real servers do, too."""
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if status == 429 else {}
    return web.json_response(
        {"error": {"message": message, "type": code, "code": code}}, status=status, headers=headers
    )


async def _until_orphaned(parent: int, clock: Clock) -> None:
    """Return when the process that started this one is gone. Works without its help, however it died."""
    while os.getppid() == parent:
        await clock.sleep(PARENT_SECONDS)


async def _main(options: argparse.Namespace) -> None:
    clock = SystemClock()
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    model = ChatModel(clock, delay_seconds=options.delay_ms / 1000)
    model.fail(*["500"] * options.fail_first)
    async with model.serve(options.port):
        sys.stdout.write(msgspec.json.encode({"url": model.url}).decode() + "\n")
        sys.stdout.flush()
        ends = [asyncio.create_task(stopping.wait()), asyncio.create_task(_until_orphaned(options.parent, clock))]
        await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()


def main(arguments: Iterable[str] | None = None) -> None:
    """The command line: serve until told to stop."""
    parser = argparse.ArgumentParser(prog="python -m perdure.testing.chatmodel", description=__doc__.partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--delay-ms", type=float, default=0.0, help="pause after each token")
    parser.add_argument("--fail-first", type=int, default=0, metavar="N", help="the first N calls answer 500")
    parser.add_argument("--parent", type=int, default=os.getppid(), metavar="PID", help="whose end is this one's too")
    options = parser.parse_args(list(arguments) if arguments is not None else None)
    asyncio.run(_main(options))


if __name__ == "__main__":
    main()
