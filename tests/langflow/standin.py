"""A stand-in for OpenAI's API, for flows with models: chat completions (streamed, with tool calls, by JSON schema).

Every answer carries the number of its call, so a repeated call is seen in the text; calls are counted by API key. An
offered tool is called first, with arguments made from its schema; after one result the answer is a text.

It listens on 127.0.0.2: in a container lfx takes 127.0.0.1 for the container's host.
"""

import asyncio
import hashlib
import json
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from aiohttp import web

HOST: Final = "127.0.0.2"
USAGE: Final = {"prompt_tokens": 10, "completion_tokens": 5, "total_tokens": 15}


class StandIn:
    """One server. `calls` are counted by API key; `delay` (seconds) comes before each answer."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()
        self.answers: list[tuple[str, str]] = []  # key, text
        self.delay = 0.0
        self.url = ""
        self._number = 0

    def made(self, prefix: str) -> int:
        """How many calls were made with keys that begin so."""
        return sum(n for key, n in self.calls.items() if key.startswith(prefix))

    def by_component(self, prefix: str) -> dict[str, int]:
        """The same by the rest of the key: one key for each component."""
        return {key.removeprefix(prefix).lstrip("/"): n for key, n in self.calls.items() if key.startswith(prefix)}

    def said(self, prefix: str) -> list[str]:
        """The texts that calls with keys that begin so were answered with."""
        return [text for key, text in self.answers if key.startswith(prefix)]

    @asynccontextmanager
    async def serve(self) -> AsyncIterator["StandIn"]:
        """Listen on a free port; `url` says where."""
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._chat)
        app.router.add_get("/{tail:.*}", self._page)
        runner = web.AppRunner(app)
        await runner.setup()
        site = web.TCPSite(runner, HOST, 0)
        await site.start()
        port = runner.addresses[0][1]
        self.url = f"http://{HOST}:{port}"
        try:
            yield self
        finally:
            await runner.cleanup()

    def _answer(self, body: dict[str, Any]) -> tuple[dict[str, Any] | None, str]:
        """A tool call, or a text."""
        messages, tools = body["messages"], body.get("tools") or []
        last = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
        results = sum(m["role"] == "tool" for m in messages[last + 1 :])
        choice = body.get("tool_choice")
        forced = choice in ("required", "any") or isinstance(choice, dict)
        if tools and (forced or results < 1):
            named = choice.get("function", {}).get("name") if isinstance(choice, dict) else None
            function = next((t["function"] for t in tools if t["function"]["name"] == named), None) or next(
                (t["function"] for t in tools if "date" not in t["function"]["name"]), tools[0]["function"]
            )
            mark = hashlib.sha256(json.dumps(messages).encode()).hexdigest()[:8]
            arguments = json.dumps(sample(function.get("parameters", {})))
            call = {"id": f"call_{mark}_{results}", "type": "function"}
            return {**call, "function": {"name": function["name"], "arguments": arguments}}, ""
        wanted = body.get("response_format") or {}
        if wanted.get("type") == "json_schema":
            return None, json.dumps(sample(wanted["json_schema"]["schema"]))
        if wanted.get("type") == "json_object":
            return None, '{"a": 1}'
        asked = text_of(messages[last])[:60]
        return None, f"answer number {self._number} after {results} tool results to: {asked}"

    async def _chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self._number += 1
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        self.calls[key] += 1
        call, text = self._answer(body)
        if call is None:
            self.answers.append((key, text))
        await asyncio.sleep(self.delay)
        base = {"id": f"chatcmpl-{self._number}", "created": 1, "model": body.get("model")}
        finish = "tool_calls" if call else "stop"
        if not body.get("stream"):
            message = {"role": "assistant", "content": text or None, **({"tool_calls": [call]} if call else {})}
            choices = [{"index": 0, "message": message, "finish_reason": finish}]
            return web.json_response({**base, "object": "chat.completion", "usage": USAGE, "choices": choices})
        stream = web.StreamResponse(headers={"content-type": "text/event-stream"})
        await stream.prepare(request)

        async def send(**members: Any) -> None:
            chunk = {**base, "object": "chat.completion.chunk", **members}
            await stream.write(b"data: " + json.dumps(chunk).encode() + b"\n\n")

        async def delta(said: dict[str, Any], reason: str | None = None) -> None:
            await send(choices=[{"index": 0, "delta": said, "finish_reason": reason}])

        await delta({"role": "assistant", "content": None if call else ""})
        if call:
            given = call["function"]
            head = {"index": 0, "id": call["id"], "type": "function"}
            await delta({"tool_calls": [{**head, "function": {"name": given["name"], "arguments": ""}}]})
            await delta({"tool_calls": [{"index": 0, "function": {"arguments": given["arguments"]}}]})
        else:
            words = text.split(" ")
            for place, word in enumerate(words):
                await delta({"content": word + " " * (place < len(words) - 1)})
        await delta({}, finish)
        await send(choices=[], usage=USAGE)
        await stream.write(b"data: [DONE]\n\n")
        await stream.write_eof()
        return stream

    async def _page(self, _request: web.Request) -> web.Response:
        return web.Response(
            text="<html><title>Stand-in</title><body><p>Hello</p></body></html>", content_type="text/html"
        )


def sample(schema: dict[str, Any], known: dict[str, Any] | None = None) -> Any:
    """A small value that satisfies a JSON schema."""
    known = {**(known or {}), **schema.get("$defs", {}), **schema.get("definitions", {})}
    if "$ref" in schema:
        return sample(known[schema["$ref"].split("/")[-1]], known)
    if "enum" in schema:
        return schema["enum"][0]
    if "const" in schema:
        return schema["const"]
    for word in ("anyOf", "oneOf", "allOf"):
        if word in schema:
            return sample(next((s for s in schema[word] if s.get("type") != "null"), schema[word][0]), known)
    kind = schema.get("type", "object" if "properties" in schema else "string")
    kind = kind[0] if isinstance(kind, list) else kind
    if kind == "object":
        needed = schema.get("required") or []
        return {name: sample(s, known) for name, s in schema.get("properties", {}).items() if name in needed}
    if kind == "array":
        return [sample(schema.get("items", {}), known)]
    return {"integer": 1, "number": 1.5, "boolean": True, "null": None}.get(kind, "2+2")


def text_of(message: dict[str, Any]) -> str:
    """What a message says, be it a text or parts."""
    content = message.get("content") or ""
    if isinstance(content, str):
        return content
    return " ".join(part.get("text", f"[{part.get('type', '?')}]") for part in content)
