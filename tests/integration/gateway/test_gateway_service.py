"""What the gateway says of itself over HTTP: API, schemas, problems, metrics."""

from typing import Any

import pytest

from perdure.ids import new_job_id

Gateway = Any  # the conftest's


@pytest.fixture
def dialect() -> str:
    """Nothing here asks SQL for more than a key."""
    return "sqlite"


async def test_the_api_is_there_for_everybody(gateway: Gateway) -> None:
    answer = await gateway.client.call("GET", "/api/openapi.json", headers={"Authorization": ""})
    assert (answer.status, answer.body["openapi"]) == (200, "3.1.0")
    assert "/api/jobs/{job}/events" in answer.body["paths"]
    schema = await gateway.client.call("GET", "/api/schemas/step.completed.json", headers={"Authorization": ""})
    assert schema.headers["Content-Type"] == "application/schema+json"
    assert schema.body["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert schema.body["$id"] == "/api/schemas/step.completed.json"
    assert (await gateway.client.get("/api/schemas/step.nothing.json")).status == 404


async def test_the_type_of_a_problem_leads_to_its_page(gateway: Gateway) -> None:
    problem = await gateway.client.get(f"/api/jobs/{new_job_id()}")
    page = await gateway.client.call("GET", problem.body["type"], headers={"Authorization": ""})
    assert (page.status, page.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert page.headers["Content-Security-Policy"].startswith("default-src 'none'")
    assert b"<h2>Cure</h2>" in page.raw
    for path in ("/problems/nothing", "/problems/%3Cscript%3E"):
        assert (await gateway.client.get(path)).status == 404


async def test_the_metrics_count_what_was_done_and_name_nobody(gateway: Gateway) -> None:
    hand = await gateway.submit()
    await hand.start()
    asked = await hand.ask()
    await hand.suspend(asked)
    assert (await gateway.client.post(f"/api/inbox/{asked}/answer", {"action": "approve"})).status == 200
    await hand.start()
    await hand.complete()
    frames = [frame async for frame in gateway.client.stream(f"/api/jobs/{hand.ref.job}/events")]
    await gateway.client.get("/api/nowhere")
    page = (await gateway.client.get("/metrics")).raw.decode()
    for line in (
        'perdure_jobs_submitted_total{flow="echo",surface="native"} 1.0',
        'perdure_answers_total{kind="approval",result="taken"} 1.0',
        f'perdure_stream_frames_total{{kind="event"}} {len(frames)}.0',
        'perdure_stream_closed_total{reason="done"} 1.0',
        'perdure_streams_open{kind="sse"} 0.0',
        "perdure_nats_connected 1.0",
        'perdure_build_info{service="gateway"',
        "perdure_submit_seconds_count 1.0",
    ):
        assert line in page, line
    assert 'method="any",route="none",status="404"' in page
    assert hand.ref.job not in page
    assert hand.ref.tenant not in page
    anonymous = await gateway.client.call("GET", "/metrics", headers={"Authorization": ""})
    assert anonymous.status == 401
