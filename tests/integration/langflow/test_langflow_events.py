"""Lines 5, 60 to 66 and 79 to 81: streams that are cut, come back, end; clients that are lost; limits."""

import asyncio
import io
import json
import re
from typing import Any

import aiohttp
import pytest
from tests.integration.gateway.conftest import StartGateway
from tests.integration.langflow.conftest import MASTER, Api, Somebody, ask, echoed, step, suspend
from tests.unit.langflow import recordings

from perdure.bus.connection import Bus
from perdure.bus.delta import Deltas
from perdure.clock import SystemClock
from perdure.core import event as ev
from perdure.core.alarm import due, orphan_at
from perdure.seal import MasterKeys
from perdure.testing.hand import Hand
from perdure_gateway import sse
from perdure_gateway.keys import FANOUT
from perdure_gateway.langflow.manner import Manner

Eventually = Any


def frames(text: str) -> list[tuple[str, str]]:
    """Each frame's data and id."""
    return re.findall(r"data: (.*)\nid: (.*)\n\n", text)


async def test_060_cut_after_every_frame_nothing_is_missing_and_061_the_bytes_are_the_same(api: Api) -> None:
    call, hand = await api.waiting(mode="stream", input_value="hello")
    await echoed(hand)
    live = (await call).raw.decode()
    told = frames(live)
    assert "".join(f"data: {data}\nid: {number}\n\n" for data, number in told) == live
    for _, number in told:
        again = await api.events(hand.ref.job, Last_Event_ID=number)
        assert again == await api.events(hand.ref.job, f"?last_event_id={number}")
        assert live.endswith(again)
        missing = [frame for frame in told if int(frame[1]) > int(number)]
        assert frames(again)[-len(missing) :] == missing if missing else again == ""


@pytest.mark.parametrize(
    ("sent", "after"), [("nope", 0), ("", 0), ("-1", 0), ("3.4", 3), (" 3 ", 3), ("0", 0), ("9" * 17, None)]
)
async def test_062_ids_that_are_none_begin_at_the_start_and_later_ones_show_nothing(
    api: Api, sent: str, after: int | None
) -> None:
    hand = await api.background()
    await echoed(hand)
    text = await api.events(hand.ref.job, f"?last_event_id={sent}")
    if after is None:
        assert text == ""
    else:
        assert text == await api.events(hand.ref.job, Last_Event_ID=str(after))


async def test_063_silence_is_filled_with_keepalives(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.05)
    assert recordings.step(22, recordings.steps(22)[-1]["name"])  # the scenario that shows it
    hand = await api.background()
    await hand.start()
    async with opened(api, hand) as response:
        text = ""
        while text.count(": keepalive\n\n") < 2:
            text += (await response.content.readany()).decode()
    assert "retry:" not in text
    assert "event:" not in re.sub(r"data: .*", "", text)


def opened(api: Api, hand: Hand, query: str = "") -> Any:
    """The stream of a job, open."""
    url = f"{api.gateway.client.url}/api/v2/workflows/{hand.ref.job}/events{query}"
    return api.gateway.client._session.get(url, headers={"x-api-key": api.key})


async def until(response: aiohttp.ClientResponse, what: str) -> str:
    """What is told up to a frame that holds `what`."""
    text = ""
    async with asyncio.timeout(20):
        while what not in text:
            chunk = await response.content.readany()
            assert chunk, f"ended without {what}: {text}"
            text += chunk.decode()
    return text


async def test_064_partial_text_on_re_attach(langflows: Api, bus: Bus, eventually: Eventually) -> None:
    hand = await langflows.background("agent")
    await hand.start()
    at = await hand.add(
        ev.ProgressData(name="langflow.pass", occurrence=1, total=3.0, data={"ids": ["Agent-1"], "to_run": ["Agent-1"]})
    )
    deltas = Deltas(bus)
    body = {"v": 1, "type": "delta.text", "job_id": hand.ref.job, "attempt": 1, "after": at.event.seq, "channel": "m-1"}
    body |= {"step": "Agent-1", "occurrence": 1}

    def say(n: int, pos: int, text: str) -> None:
        deltas.publish(hand.ref, json.dumps(body | {"n": n, "pos": pos, "text": text}).encode())

    say(1, 0, "he")
    say(2, 2, "l")

    async def kept() -> bool:
        return len(await langflows.gateway.app[FANOUT].kept(hand.ref)) == 2

    await eventually(kept)
    async with opened(langflows, hand) as response:
        text = await until(response, '"state": "partial"')
        say(3, 3, "lo")
        text += await until(response, '"event": "token"') if '"event": "token"' not in text else ""
    shown = [json.loads(data) for data, _ in frames(text)]
    messages = [frame["data"] for frame in shown if frame["event"] == "add_message"]
    assert [message["text"] for message in messages] == ["hel"]
    assert [frame["data"]["chunk"] for frame in shown if frame["event"] == "token"] == ["lo"]


async def test_065_it_ends_at_a_suspension_and_follow_stays(langflows: Api) -> None:
    hand = await langflows.background("agent")
    await hand.start()
    request = await ask(hand)
    await suspend(hand)
    assert '"human_input_required"' in frames(await langflows.events(hand.ref.job))[-1][0]
    async with opened(langflows, hand, "?follow=true") as response:
        await until(response, "human_input_required")
        assert (await langflows.resume(hand.ref.job, request)).status == 200
        await hand.start()
        await hand.complete()
        text = await until(response, '"event": "end"')
        assert await response.content.read() == b""
    assert '"status": "completed"' in text


async def test_065_after_an_answer_the_stream_goes_on_with_whoever_resumes(langflows: Api) -> None:
    hand = await langflows.background("agent")
    await hand.start()
    request = await ask(hand)
    await suspend(hand)
    assert (await langflows.resume(hand.ref.job, request)).status == 200
    async with opened(langflows, hand) as response:
        await until(response, "human_input_required")
        await hand.start()
        await hand.complete()
        await until(response, '"event": "end"')


# ------------------------------------------------------------------------------------------------ lost clients


async def lost(api: Api, hand: Hand, eventually: Eventually) -> None:
    """Wait until the log says that the client is gone."""

    async def noted() -> bool:
        await hand.log.refresh()
        return hand.log.state.detached is not None

    await eventually(noted)


async def found(hand: Hand, eventually: Eventually) -> None:
    """Wait until the log says that a client is there again."""

    async def noted() -> bool:
        await hand.log.refresh()
        return hand.log.state.detached is None

    await eventually(noted)


async def streaming(api: Api, monkeypatch: pytest.MonkeyPatch) -> tuple[Hand, aiohttp.ClientResponse]:
    """A stream job that runs, and its open response."""
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.05)  # a lost client shows when something is written
    url = f"{api.gateway.client.url}/api/v2/workflows"
    body = {"flow_id": api.flows["lf-echo"], "mode": "stream", "input_value": "hello"}
    response = await api.gateway.client._session.post(url, json=body, headers={"x-api-key": api.key})
    hand = api.hand(response.headers["X-Job-Id"])
    await hand.start()
    return hand, response


async def test_005_a_stream_client_may_come_back_at_another_gateway(
    start_gateway: StartGateway, api: Api, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, response = await streaming(api, monkeypatch)
    await until(response, "build_start")
    response.close()
    await lost(api, hand, eventually)
    assert orphan_at(hand.log.state) is not None
    other = Api(await start_gateway(), api.key)
    async with opened(other, hand) as back:
        await until(back, "build_start")
        await found(hand, eventually)
        await step(hand, "out", "x", output=ev.Named(name="out", kind="message"))
        await hand.complete(out="x")
        await until(back, '"event": "end"')


async def test_005_later_the_job_is_cancelled(
    start_gateway: StartGateway, api: Api, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    quick = Api(await start_gateway(langflow=Manner(orphan_seconds=0.1), master_keys=MasterKeys(MASTER)), api.key)
    quick.flows = api.flows
    hand, response = await streaming(quick, monkeypatch)
    response.close()
    await lost(quick, hand, eventually)

    def over() -> bool:
        return due(hand.log.state, api.gateway.desk.clock.broker_now()) is not None

    await eventually(over)
    assert (await api.gateway.client.post(f"/api/jobs/{hand.ref.job}/cancel")).status in (200, 202)
    await hand.log.refresh()
    assert any(isinstance(event, ev.SignalReceived) for event in hand.log.events)


async def test_005_a_reader_that_is_there_when_another_is_lost_keeps_the_job(
    api: Api, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, response = await streaming(api, monkeypatch)
    async with opened(api, hand) as other:
        await until(other, "build_start")
        response.close()

        async def said() -> bool:
            await hand.log.refresh()
            names = [e.data.name for e in hand.log.events if isinstance(e, ev.SignalReceived)]
            return names == ["$detached", "$attached"]

        await eventually(said)
        assert hand.log.state.detached is None


async def test_005_who_may_only_read_is_not_missed_and_keeps_no_job(
    api: Api, somebody: Somebody, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    hand, response = await streaming(api, monkeypatch)
    owner = hand.log.state.submitted.owner if hand.log.state.submitted else ""
    reader = await somebody(owner.partition(":")[2], "read", "values")

    async def alone() -> bool:
        page = (await api.gateway.client.get("/metrics")).raw.decode()
        return 'perdure_streams_open{kind="langflow"} 1.0' in page

    async with opened(reader, hand) as other:
        await until(other, "build_start")
        assert not await alone()
    await eventually(alone)
    await hand.log.refresh()
    assert not [event for event in hand.log.events if isinstance(event, ev.SignalReceived)]
    response.close()
    await lost(api, hand, eventually)


async def test_a_reader_of_a_job_in_the_background_is_missed_by_nobody(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sse, "HEARTBEAT_SECONDS", 0.05)
    hand = await api.background()
    await hand.start()
    async with opened(api, hand) as response:
        await until(response, "build_start")
    await echoed_rest(hand)
    assert '"event": "end"' in await api.events(hand.ref.job)
    await hand.log.refresh()
    assert not any(isinstance(event, ev.SignalReceived) for event in hand.log.events)


async def echoed_rest(hand: Hand) -> None:
    """End `lf-echo`."""
    await step(hand, "out", "x", output=ev.Named(name="out", kind="message"))
    await hand.complete(out="x")


# ------------------------------------------------------------------------------------------------ limits


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b'{"flow_id": "F", "tweaks": {"a": NaN}}', 422, "INVALID_REQUEST_OVERRIDES"),
        (b'{"flow_id": "F", "tweaks": {"a": 1e999}}', 422, "INVALID_REQUEST_OVERRIDES"),
        (b'{"flow_id": "F", "tweaks": {"a": ' + b"[" * 65 + b"]" * 65 + b"}}", 422, "INVALID_REQUEST_OVERRIDES"),
        (b'{"flow_id": "F", "globals": {"a": "\\ud800"}}', 422, "INVALID_REQUEST_OVERRIDES"),
        (b'{"flow_id": "F", "input_value": "\\ud800"}', 422, "value_error"),
        (b'{"flow_id": "F", "globals": {"' + b"n" * 257 + b'": "v"}}', 422, "string_too_long"),
        (b'{"flow_id": "F", "globals": {"n": "' + b"v" * 65_537 + b'"}}', 422, "string_too_long"),
        (b'{"flow_id": "F", "data": ' + b"[" * 500 + b"]" * 500 + b"}", 422, "json_invalid"),
    ],
    ids=["nan", "infinite", "deep", "surrogate", "surrogate elsewhere", "name", "value", "too deep to parse"],
)
async def test_079_what_cannot_be_stored_is_refused_with_its_field(
    api: Api, raw: bytes, status: int, code: str
) -> None:
    body = raw.replace(b'"F"', json.dumps(api.flows["lf-echo"]).encode())
    headers = {"x-api-key": api.key, "Authorization": "", "Content-Type": "application/json"}
    answer = await api.gateway.client.call("POST", "/api/v2/workflows", headers=headers, raw=body)
    assert answer.status == status, answer.raw
    detail = answer.body["detail"]
    if isinstance(detail, dict):
        assert (detail["code"], detail["field"]) == (code, "tweaks" if b"tweaks" in raw else "globals")
    else:
        assert detail[0]["type"] == code


async def test_079_sizes(api: Api) -> None:
    for size, status in ((2_000_000, 200), (17 * 1024 * 1024, 422)):
        body = {"flow_id": api.flows["lf-echo"], "mode": "background", "input_value": "x" * size}
        headers = {"x-api-key": api.key, "Content-Type": "application/json"}
        url = f"{api.gateway.client.url}/api/v2/workflows"
        content = io.BytesIO(json.dumps(body).encode())
        async with api.gateway.client._session.post(url, data=content, headers=headers) as response:
            assert response.status == status
    assert (await api.run(mode="background", globals={"n" * 256: "v" * 65_536})).status == 200
    long = {"X-LANGFLOW-GLOBAL-VAR-" + "N" * 300: "v"}
    answer = await api.run(mode="background", _headers=long)
    assert (answer.status, answer.body["detail"]["code"]) == (422, "INVALID_REQUEST_OVERRIDES")


async def test_080_too_many_calls_are_429_with_retry_after_and_nothing_half_written(
    start_gateway: StartGateway, api: Api
) -> None:
    tight = Api(await start_gateway(rate_per_minute=1), api.key)
    tight.flows = api.flows
    assert (await tight.run(mode="background")).status == 200
    answer = await tight.run(mode="background", idempotency_key="k")
    assert (answer.status, answer.body["detail"]["code"]) == (429, "QUOTA_EXCEEDED")
    assert int(answer.headers["Retry-After"]) > 0
    assert (await api.run(mode="background", idempotency_key="k")).body["status"] == "queued"


async def test_066_a_burst_of_log_lines_holds_nothing_up(langflows: Api, bus: Bus) -> None:
    hand = await langflows.background("agent")
    await hand.start()
    data = {"ids": ["Agent-1"], "to_run": ["Agent-1"]}
    at = await hand.add(ev.ProgressData(name="langflow.pass", occurrence=1, total=3.0, data=data))
    deltas = Deltas(bus)
    body = {"v": 1, "type": "delta.log", "job_id": hand.ref.job, "attempt": 1, "after": at.event.seq}
    body |= {"step": "Agent-1", "occurrence": 1, "level": "info"}
    async with opened(langflows, hand) as response:
        text = await until(response, '"event": "vertices_sorted"')
        for n in range(1, 401):
            deltas.publish(hand.ref, json.dumps(body | {"n": n, "text": f"line {n}"}).encode())
        await hand.complete(**{"ChatOutput-1": "done"})
        text += await until(response, '"event": "end"')
    shown = [json.loads(data) for data, _ in frames(text)]
    lines = [int(frame["data"]["message"].removeprefix("line ")) for frame in shown if frame["event"] == "log"]
    assert lines == sorted(set(lines))  # some may be missing: they are told live and kept nowhere
    assert (await langflows.status(hand.ref.job)).body["status"] == "completed"


async def test_081_a_deep_queue_makes_no_submit_slow(api: Api) -> None:
    for _ in range(10):
        await asyncio.gather(*(api.background() for _ in range(30)))
    began = SystemClock().monotonic()
    await api.background()
    assert SystemClock().monotonic() - began < 1.0


async def test_069_a_job_is_told_in_the_protocol_that_it_was_submitted_with(api: Api) -> None:
    call, hand = await api.waiting(mode="stream", stream_protocol="agui", session_id="s-1")
    await echoed(hand)
    live = (await call).raw.decode()
    types = [json.loads(data)["type"] for data, _ in frames(live)]
    theirs = recordings.lines(recordings.step(14, "agui, expose_graph_state unset")["response"]["text"])
    assert types == [json.loads(line)["type"] for line in theirs]
    assert await api.events(hand.ref.job) == live
