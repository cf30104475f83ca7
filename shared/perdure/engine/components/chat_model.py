"""The chat model node: one call of an OpenAI-compatible endpoint, its text streamed to followers as it comes."""

import re
from typing import Any, Final

import aiohttp
import msgspec
from msgspec import Struct

from perdure.core.graph.catalogue import BUILTIN
from perdure.engine.components.completion import Completion
from perdure.engine.components.contract import Component, ComponentContext
from perdure.engine.components.endpoint import ModelEndpoint
from perdure.engine.components.outbound import Outbound, Unreached, retry_after
from perdure.engine.result import Result
from perdure.errors import Retryable, Terminal

TIMEOUT_SECONDS: Final = 300.0  # a whole answer, where the node names no time-out
MAX_PROBLEM_BYTES: Final = 16 * 1024
_AGAIN: Final = frozenset({408, 409, 425, 429})  # and every 5xx
_CODE: Final = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)


class ModelInputs(Struct, frozen=True):
    """`model` stands in for the endpoint's own."""

    prompt: str
    system: str | None = None
    model: str | None = None
    temperature: float | None = None
    max_tokens: int | None = None


def chat_model(endpoint: ModelEndpoint | None, outbound: Outbound) -> Component:
    """The component that asks `endpoint` through `outbound`. Without one its steps fail and say what is missing."""

    async def run(context: ComponentContext, inputs: ModelInputs) -> Result[str]:
        if endpoint is None:
            raise Terminal("this runner has no model endpoint: set PERDURE_MODEL_URL", code="model_not_configured")
        return await _ask(outbound, endpoint, context, inputs)

    return Component(spec=BUILTIN["chat_model"], inputs=ModelInputs, run=run, timeout_seconds=TIMEOUT_SECONDS)


async def _ask(
    outbound: Outbound, endpoint: ModelEndpoint, context: ComponentContext, inputs: ModelInputs
) -> Result[str]:
    """One call. Raises Retryable when another try may help (network, 429, 5xx, a broken answer), else Terminal."""
    body = msgspec.json.encode(_body(endpoint, inputs))
    try:
        async with outbound.send(
            "POST",
            endpoint.completions,
            headers=endpoint.headers,
            body=body,
            connect_seconds=endpoint.connect_seconds,
            read_seconds=endpoint.read_seconds,
        ) as response:
            if response.status != 200:
                raise await _refusal(response, endpoint)
            return await _read(response, context, cut_is_fine=inputs.max_tokens is not None)
    except Unreached as exc:
        match exc.why:
            case "timeout":
                raise Retryable("the model endpoint did not answer in time", code="model_unavailable") from exc
            case "cut":
                raise Retryable("the model's answer ended in the middle", code="model_answer_broken") from exc
            case "network":
                raise Retryable(f"the model endpoint is away: {exc}", code="model_unavailable") from exc


async def _read(response: aiohttp.ClientResponse, context: ComponentContext, *, cut_is_fine: bool) -> Result[str]:
    completion = Completion(cut_is_fine=cut_is_fine)
    streamed = response.content_type != "application/json"
    async for body in response.content.iter_any():
        if streamed:
            for piece in completion.feed(body):
                context.delta(piece)
        else:
            completion.feed_whole(body)
    text, usage = completion.end(streamed=streamed)
    return Result(text, usage=usage)


def _body(endpoint: ModelEndpoint, inputs: ModelInputs) -> dict[str, Any]:
    """The call's body; members that the node does not give are the endpoint's to choose."""
    model = inputs.model or endpoint.name
    if not model:
        raise Terminal("no model is named: give the node `model` or set PERDURE_MODEL_NAME", code="model_not_named")
    messages = [{"role": "user", "content": inputs.prompt}]
    if inputs.system:
        messages.insert(0, {"role": "system", "content": inputs.system})
    body: dict[str, Any] = {
        "model": model,
        "messages": messages,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    if inputs.temperature is not None:
        body["temperature"] = inputs.temperature
    if inputs.max_tokens is not None:
        body["max_tokens"] = inputs.max_tokens
    return body


async def _refusal(response: aiohttp.ClientResponse, endpoint: ModelEndpoint) -> Retryable | Terminal:
    """The failure that an answer other than 200 is.

    Of its body only a code is kept: some endpoints repeat the key in the message.
    """
    status = response.status
    said = f"the model endpoint answered {status}{await _reason(response, endpoint)}"
    if status in _AGAIN or status >= 500:
        code = "model_rate_limited" if status == 429 else "model_unavailable"
        return Retryable(said, code=code, after_seconds=retry_after(response.headers))
    return Terminal(said, code="model_unauthorized" if status in (401, 403) else "model_refused")


async def _reason(response: aiohttp.ClientResponse, endpoint: ModelEndpoint) -> str:
    try:
        problem = msgspec.json.decode(await response.content.read(MAX_PROBLEM_BYTES))
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return ""
    error = problem.get("error") if isinstance(problem, dict) else None
    code = error.get("code") or error.get("type") if isinstance(error, dict) else None
    if not isinstance(code, str) or _CODE.fullmatch(code) is None or (endpoint.key and endpoint.key in code):
        return ""
    return f" ({code})"
