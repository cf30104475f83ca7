"""The chat model component over real HTTP, against the local server that speaks its protocol."""

import asyncio
import json
import os
import signal
import socket
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from perdure.clock import SystemClock
from perdure.core import codec
from perdure.core import event as ev
from perdure.core.event import Usage
from perdure.core.graph import spec
from perdure.engine.components.chat_model import ModelInputs, chat_model
from perdure.engine.components.endpoint import ModelEndpoint
from perdure.engine.components.outbound import Outbound
from perdure.engine.components.registry import builtin
from perdure.engine.graph import graph_workflow
from perdure.engine.result import Result
from perdure.engine.workflow import Workflow
from perdure.errors import Malformed, Retryable, Terminal
from perdure.testing.chatmodel import RETRY_AFTER_SECONDS, SIGNATURE, ChatModel, answer_to, tokens_of
from perdure.testing.memory import MemoryJob

KEY = "sk-canary-5e1f00d"


class Recorder:
    """A component's context that keeps what it is told."""

    idempotency_key = "key"
    cancelled = False

    def log(self, text: str, level: str = "info", **fields: Any) -> None:
        raise AssertionError("a model call writes no lines")

    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.heard = asyncio.Event()

    def delta(self, text: str, channel: str = "m-1") -> None:
        assert channel == "m-1"
        self.pieces.append(text)
        self.heard.set()


@pytest.fixture
async def model() -> AsyncIterator[ChatModel]:
    async with ChatModel(SystemClock(), key=KEY).serve() as server:
        yield server


Ask = Callable[..., Awaitable[Result[str]]]


@pytest.fixture
def context() -> Recorder:
    return Recorder()


@pytest.fixture
def ask(model: ChatModel, context: Recorder) -> Ask:
    async def ask(prompt: str = "tea", **inputs: Any) -> Result[str]:
        given: dict[str, Any] = {
            "url": model.url,
            "key": KEY,
            "name": "small",
            "connect_seconds": 2.0,
            "read_seconds": 2.0,
        }
        given |= {name: inputs.pop(name) for name in list(inputs) if name in given}
        endpoint = ModelEndpoint(**given)
        component = chat_model(endpoint, Outbound([endpoint.address]))
        result: Result[str] = await component.run(context, ModelInputs(prompt=prompt, **inputs))
        return result

    return ask


async def test_the_text_streams_in_pieces_and_comes_back_whole(ask: Ask, context: Recorder, model: ChatModel) -> None:
    prompt = 'Zwölf Boxkämpfer, 漢字 \U0001f600,\n"data: [DONE]"\n\nand more'
    result = await ask(prompt)
    assert result.value == answer_to(prompt)
    assert prompt in result.value
    assert "".join(context.pieces) == result.value
    assert len(context.pieces) == len(tokens_of(answer_to(prompt)))
    assert result.usage == Usage(
        input_tokens=len(tokens_of(prompt)), output_tokens=len(tokens_of(result.value)), model="small"
    )


async def test_the_node_s_inputs_reach_the_endpoint_and_nothing_else_does(ask: Ask, model: ChatModel) -> None:
    await ask("tea", system="Be brief.", model="large", temperature=0, max_tokens=1000)
    await ask("tea")
    stream = {"stream": True, "stream_options": {"include_usage": True}}
    assert model.calls == [
        {
            "model": "large",
            "messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "tea"}],
            "temperature": 0,
            "max_tokens": 1000,
            **stream,
        },
        {"model": "small", "messages": [{"role": "user", "content": "tea"}], **stream},
    ]
    assert model.authorizations == [f"Bearer {KEY}"] * 2


async def test_an_endpoint_that_does_not_stream_is_understood(ask: Ask, model: ChatModel) -> None:
    model.fail("whole")
    result = await ask()
    assert result.value == answer_to("tea")
    assert result.usage is not None


async def test_a_text_cut_at_the_node_s_own_limit_is_taken(ask: Ask) -> None:
    assert (await ask(max_tokens=3)).value == "".join(tokens_of(answer_to("tea"))[:3])


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("500", "model_unavailable"),
        ("503", "model_unavailable"),
        ("408", "model_unavailable"),
        ("429", "model_rate_limited"),
        ("cut", "model_answer_broken"),
        ("end", "model_answer_broken"),
        ("garbage", "model_answer_broken"),
        ("error", "model_answer_broken"),
    ],
)
async def test_what_another_try_may_cure_is_retryable_and_the_next_try_succeeds(
    ask: Ask, model: ChatModel, fault: str, code: str
) -> None:
    model.fail(fault)
    with pytest.raises(Retryable) as caught:
        await ask()
    assert caught.value.code == code
    assert caught.value.after_seconds == (RETRY_AFTER_SECONDS if fault == "429" else None)
    assert (await ask()).value == answer_to("tea")


@pytest.mark.parametrize(
    ("fault", "code"),
    [
        ("400", "model_refused"),
        ("404", "model_refused"),
        ("403", "model_unauthorized"),
        ("redirect", "model_refused"),
        ("huge", "model_answer_too_large"),
    ],
)
async def test_what_no_try_will_cure_is_terminal(ask: Ask, model: ChatModel, fault: str, code: str) -> None:
    model.fail(fault)
    with pytest.raises(Terminal) as caught:
        await ask()
    assert caught.value.code == code


@pytest.mark.parametrize("fault", ["silent", "hang"])
async def test_silence_has_an_end(ask: Ask, model: ChatModel, fault: str) -> None:
    model.fail(fault)
    with pytest.raises(Retryable) as caught:
        await ask(read_seconds=0.2)
    assert caught.value.code == "model_unavailable"


async def test_a_slow_answer_is_no_silence(ask: Ask, model: ChatModel) -> None:
    """Each piece comes within the bound, the whole does not."""
    model.delay_seconds = 0.1
    assert (await ask(read_seconds=1.0)).value == answer_to("tea")


async def test_no_failure_repeats_the_key(ask: Ask, model: ChatModel, context: Recorder) -> None:
    model.fail("500", "400", "429", "403")
    wrong = "sk-other-canary"
    said = []
    for key in (KEY, KEY, KEY, KEY, wrong):
        with pytest.raises((Retryable, Terminal)) as caught:
            await ask(key=key)
        seen: BaseException | None = caught.value
        while seen is not None:  # what a log line with a traceback would show
            assert key not in repr(seen)
            seen = seen.__cause__ or seen.__context__
        said.append(str(caught.value))
    assert said[-1] == "the model endpoint answered 401 (invalid_api_key)"  # its code is kept, its message is not
    assert KEY not in repr(ModelEndpoint(url=model.url, key=KEY))


async def test_an_endpoint_that_is_not_there_is_retryable(ask: Ask) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))  # bound and not listening: refused, and nobody else can take it meanwhile
        with pytest.raises(Retryable) as caught:
            await ask(url=f"http://127.0.0.1:{free.getsockname()[1]}/v1")
    assert caught.value.code == "model_unavailable"


async def test_a_redirect_is_not_followed_and_proxies_of_the_environment_are_not_used(
    ask: Ask, model: ChatModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    monkeypatch.setenv("no_proxy", "")
    assert (await ask()).value == answer_to("tea")


async def test_a_call_that_is_cancelled_lets_go_of_the_endpoint(ask: Ask, model: ChatModel, context: Recorder) -> None:
    model.fail("hang")
    call = asyncio.ensure_future(ask(read_seconds=60.0))
    async with asyncio.timeout(10):
        await context.heard.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert (await ask()).value == answer_to("tea")


async def test_what_is_not_configured_is_said() -> None:
    with pytest.raises(Terminal, match="PERDURE_MODEL_URL"):
        await chat_model(None, Outbound()).run(Recorder(), ModelInputs(prompt="x"))
    with pytest.raises(Terminal, match="PERDURE_MODEL_NAME"):
        await chat_model(ModelEndpoint(url="http://127.0.0.1:9"), Outbound()).run(Recorder(), ModelInputs(prompt="x"))


@pytest.mark.parametrize(
    "url",
    ["", "127.0.0.1:80", "ftp://h/v1", "http://", "http://u:p@h/v1", "http://h/v1?key=k", "http://h/#f", "http://h\\@g/v1",
     "http://h /v1", "file:///etc/passwd"],
)  # fmt: skip
def test_what_is_no_endpoint_is_refused(url: str) -> None:
    with pytest.raises(Malformed):
        ModelEndpoint(url=url)


def test_a_key_that_would_break_a_header_is_refused_without_being_shown() -> None:
    with pytest.raises(Malformed) as caught:
        ModelEndpoint(url="http://h/v1", key="secret\r\nX-Evil: 1")
    assert "secret" not in str(caught.value)


# ------------------------------------------------------------------------------------- as a step of a flow


def approval(model: ChatModel, key: str) -> Workflow:
    definition = json.loads((Path(__file__).parents[2] / "examples" / "content_approval.json").read_text())
    return graph_workflow(spec.parse(definition), builtin(ModelEndpoint(url=model.url, key=key, name="small")))


async def test_a_flow_gets_its_text_after_a_500_and_a_broken_stream(model: ChatModel) -> None:
    model.fail("500", "cut")
    job = MemoryJob(input="tea for two")
    await job.run(approval(model, KEY))
    assert [failed.error.code for failed in job.events(ev.StepFailed)] == ["model_unavailable", "model_answer_broken"]
    assert job.open_request("review").proposal == answer_to("tea for two")
    job.answer("review", "approve")
    end = await job.run(approval(model, KEY))
    assert isinstance(end, ev.JobCompleted)
    assert end.data.outputs == {"post": answer_to("tea for two")}
    assert len(model.calls) == 3  # the answered request called nobody again
    drafted = next(done for done in job.events(ev.StepCompleted) if done.step == "draft")
    assert drafted.usage is not None
    assert drafted.usage.output_tokens == len(tokens_of(answer_to("tea for two")))


async def test_the_tokens_of_a_flow_join_to_its_text(model: ChatModel) -> None:
    job = MemoryJob(input="tea")
    await job.run(approval(model, KEY))
    shown = [data for kind, data in job.deltas if kind == "delta.text"]
    assert "".join(data["text"] for data in shown) == answer_to("tea")
    assert [data["pos"] for data in shown] == [
        sum(len(before["text"]) for before in shown[:place]) for place in range(len(shown))
    ]


async def test_a_refused_key_fails_the_job_and_is_nowhere_in_its_log(model: ChatModel) -> None:
    wrong = "sk-wrong-canary"
    job = MemoryJob(input="tea")
    end = await job.run(approval(model, wrong))
    assert isinstance(end, ev.JobFailed)
    assert (end.data.error.code, end.data.error.step) == ("model_unauthorized", "draft")
    assert model.authorizations == [f"Bearer {wrong}"]  # it did reach the endpoint, once
    everything = b"".join(codec.encode(event) for event in job.log) + repr(job.deltas).encode()
    assert wrong.encode() not in everything


# ------------------------------------------------------------------------------------- the server as a process


def started(*options: str, parent: int | None = None) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "perdure.testing.chatmodel", *options]
    if parent is not None:
        command += ["--parent", str(parent)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def parent_of_a_server() -> subprocess.Popen[str]:
    code = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-m', 'perdure.testing.chatmodel'])\n"
        "sys.stdin.read()\n"
    )
    return subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def url_of(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    url: str = json.loads(process.stdout.readline())["url"]
    return url


async def test_the_server_runs_as_a_process_fails_as_told_and_ends_on_sigterm(context: Recorder) -> None:
    process = started("--fail-first", "1")
    try:
        url = await asyncio.to_thread(url_of, process)
        endpoint = ModelEndpoint(url=url, name="m")
        component = chat_model(endpoint, Outbound([endpoint.address]))
        with pytest.raises(Retryable):
            await component.run(context, ModelInputs(prompt="tea"))
        assert SIGNATURE in (await component.run(context, ModelInputs(prompt="tea"))).value
        async with aiohttp.ClientSession() as session:
            admin = url.removesuffix("/v1") + "/admin/faults"
            async with session.post(admin, json={"faults": ["404"]}) as response:
                assert response.status == 200
            async with session.post(admin, json={"faults": ["no such"]}) as response:
                assert response.status == 422
        with pytest.raises(Terminal):
            await component.run(context, ModelInputs(prompt="tea"))
        process.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(process.wait, 10) == 0
    finally:
        process.kill()
        process.communicate()


async def test_the_server_ends_with_its_parent() -> None:
    """However it dies: the parent in between is killed."""
    parent = parent_of_a_server()
    try:
        await asyncio.to_thread(url_of, parent)
        os.kill(parent.pid, signal.SIGKILL)
        assert parent.stdout is not None
        async with asyncio.timeout(15):  # the server holds the other end of this pipe: the end of file is its end
            assert await asyncio.to_thread(parent.stdout.read) == ""
    finally:
        parent.kill()
        parent.communicate()


async def test_a_server_whose_parent_has_gone_before_it_looked_ends_at_once() -> None:
    process = started(parent=os.getpid() + 1)
    try:
        assert await asyncio.to_thread(process.wait, 15) == 0
    finally:
        process.kill()
        process.communicate()
