"""An agent whose tools a person approves: `perdure up --app agent_with_approval` in this folder.

It talks to the endpoint of `PERDURE_MODEL_URL`. Perdure's local test server is one that needs no model: it calls the
tools that the task names, a line each.

    python -m perdure.testing.chatmodel --port 8001 &
    PERDURE_MODEL_URL=http://127.0.0.1:8001/v1 perdure up --app agent_with_approval
    perdure run agent --input 'send_mail {"to": "ann@example.com", "text": "Your parcel is on its way."}' --follow
"""

import json
import os
from typing import Any

import aiohttp
from pydantic import BaseModel

from perdure import Context, Invalid, Terminal, workflow

MAX_TURNS = 10


class Mail(BaseModel):
    """The arguments of `send_mail`."""

    to: str
    text: str


class Refund(BaseModel):
    """The arguments of `refund`."""

    order: int
    amount: float


async def send_mail(mail: Mail, key: str) -> str:
    """Send a mail; `key` lets the mail server see that a repeated one is the same."""
    return f"sent to {mail.to}: {mail.text} ({key[:8]})"


async def refund(refund: Refund, key: str) -> str:
    """Give money back."""
    return f"refunded {refund.amount:.2f} for order {refund.order} ({key[:8]})"


async def look_up(query: dict[str, Any], key: str) -> str:
    """Read something: nobody has to approve that."""
    return f"found {json.dumps(query)}"


TOOLS: dict[str, tuple[Any, type[BaseModel] | None]] = {  # by name: the function, and its arguments if it is approved
    "send_mail": (send_mail, Mail),
    "refund": (refund, Refund),
    "look_up": (look_up, None),
}


async def think(messages: list[dict[str, Any]]) -> dict[str, Any]:
    """One call of the chat model: what it says, or the tools that it wants to call."""
    described = [
        {
            "type": "function",
            "function": {"name": name, "parameters": kind.model_json_schema() if kind else {"type": "object"}},
        }
        for name, (_, kind) in TOOLS.items()
    ]
    body = {"model": os.environ.get("PERDURE_MODEL_NAME", "local"), "messages": messages, "tools": described}
    key = os.environ.get("PERDURE_MODEL_KEY")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    async with (
        aiohttp.ClientSession(headers=headers, raise_for_status=True) as session,
        session.post(os.environ["PERDURE_MODEL_URL"] + "/chat/completions", json=body) as response,
    ):
        message: dict[str, Any] = (await response.json())["choices"][0]["message"]
        return message


@workflow
async def agent(ctx: Context, task: str) -> str:
    """Think, have each call approved, make it, think again, until the model has nothing more to call."""
    messages: list[dict[str, Any]] = [{"role": "user", "content": task}]
    for _ in range(MAX_TURNS):
        message = await ctx.step("think", think, messages, timeout=60)
        messages.append(message)
        if not message.get("tool_calls"):
            return str(message["content"])
        for call in message["tool_calls"]:
            result = await use(ctx, call["id"], call["function"]["name"], json.loads(call["function"]["arguments"]))
            messages.append({"role": "tool", "tool_call_id": call["id"], "content": result})
    raise Terminal(f"no end after {MAX_TURNS} turns", code="too_many_turns")


async def use(ctx: Context, call_id: str, name: str, arguments: dict[str, Any]) -> str:
    """Make one call, as it was approved; or what a person says in place of its result."""
    if name not in TOOLS:
        return f"There is no tool {name}."
    tool, kind = TOOLS[name]
    made: Any = arguments
    if kind is not None:
        try:
            decision = await ctx.approve_tool(name, arguments, schema=kind, call_id=call_id, expires_in=86_400)
        except Invalid as exc:  # the model's mistake, so the model is told
            return f"These arguments cannot be: {exc}"
        if not decision.approved:
            return decision.message
        made = decision.arguments

    async def call() -> str:
        return str(await tool(made, ctx.idempotency_key))

    return str(await ctx.step(name, call))
