"""Langflow's API: modes, jobs of every mode, errors in its shapes."""

from tests.integration.langflow.conftest import Api, echoed


async def test_002_background_is_200_with_the_members_of_1_13(api: Api) -> None:
    answer = await api.run(mode="background", input_value="hello")
    assert answer.status == 200
    job = answer.body["job_id"]
    assert answer.headers["X-Job-Id"] == job
    assert answer.body | {"created_timestamp": ""} == {
        "job_id": job,
        "flow_id": api.flows["lf-echo"],
        "object": "job",
        "created_timestamp": "",
        "status": "queued",
        "links": {
            "status": f"/api/v2/workflows?job_id={job}",
            "events": f"/api/v2/workflows/{job}/events",
            "stop": "/api/v2/workflows/stop",
            "resume": f"/api/v2/workflows/{job}/resume",
        },
        "errors": [],
        "globals": {},
    }


async def test_001_sync_answers_with_the_output(api: Api) -> None:
    call, hand = await api.waiting(input_value="hello", session_id="s-1")
    await echoed(hand)
    answer = await call
    assert answer.status == 200, answer.raw
    assert list(answer.body)[:14] == [
        "flow_id", "session_id", "job_id", "object", "created_timestamp", "status", "output", "errors", "warnings",
        "inputs", "globals", "outputs", "human_request", "has_errors",
    ]  # fmt: skip
    assert answer.body["output"] == {"reason": "single", "text": "hello", "source": "out"}
    assert answer.body["outputs"] == {
        "out": {
            "type": "message",
            "status": "completed",
            "display_name": "Chat Output",
            "content": "hello",
            "metadata": {"component_type": "chat_output"},
        }
    }


async def test_001_stream_tells_what_1_13_tells(api: Api) -> None:
    call, hand = await api.waiting(mode="stream", input_value="hello", session_id="s-1")
    await echoed(hand)
    answer = await call
    assert answer.status == 200
    assert (await api.events(hand.ref.job)) == answer.raw.decode()
    assert answer.headers["Content-Type"] == "text/event-stream; charset=utf-8"
    assert answer.headers["Cache-Control"] == "no-cache"
    assert answer.headers["X-Job-Id"] == hand.ref.job
