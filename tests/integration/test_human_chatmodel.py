"""The local chat model calls the tools that a prompt names, one a turn, and says what came back."""

from typing import Any

import aiohttp

from perdure.clock import SystemClock
from perdure.testing.chatmodel import ChatModel, answer_to

TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in ("look", "send")]


async def test_a_conversation_with_tools_goes_call_by_call() -> None:
    prompt = 'Please do this:\nlook {"order": 9}\nsend {"to": "ann"}\nunknown {"x": 1}\nsend [1]\nsend {broken'
    messages: list[dict[str, Any]] = [{"role": "user", "content": prompt}]
    made: list[tuple[str, str]] = []
    choice: dict[str, Any] = {}
    async with ChatModel(SystemClock()).serve() as model, aiohttp.ClientSession() as session:
        for turn in range(3):
            body = {"model": "local", "messages": messages, "tools": TOOLS}
            async with session.post(f"{model.url}/chat/completions", json=body) as response:
                [choice] = (await response.json())["choices"]
            messages.append(choice["message"])
            if turn == 2:
                break
            assert choice["finish_reason"] == "tool_calls"
            [call] = choice["message"]["tool_calls"]
            made.append((call["function"]["name"], call["function"]["arguments"]))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": f"result {turn}"})
    assert made == [("look", '{"order": 9}'), ("send", '{"to": "ann"}')]
    assert (choice["finish_reason"], choice["message"]["content"]) == (
        "stop",
        answer_to("look: result 0\nsend: result 1"),
    )
