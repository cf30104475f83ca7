"""Lines 1 to 8 of the acceptance list: modes, fields of other modes, bodies, credentials."""

import json
from typing import Any

import pytest
from tests.integration.gateway.conftest import StartGateway
from tests.integration.langflow.conftest import MASTER, Api, ask, echoed, fail, suspend
from tests.integration.langflow.replay import Replay
from tests.unit.langflow.recordings import lines, step, steps

from perdure.core.langflow import keys
from perdure.ids import Principal
from perdure.seal import MasterKeys
from perdure_gateway.langflow.manner import Manner

RECORDED_SYNC = step(1, "no mode, with a session")["response"]["json"]


async def test_001_sync_answers_with_the_members_of_1_13(api: Api) -> None:
    call, hand = await api.waiting(input_value="hello", session_id="s-1")
    await echoed(hand)
    answer = await call
    assert answer.status == 200, answer.raw
    assert list(answer.body) == list(RECORDED_SYNC)
    assert answer.body["output"] == {"reason": "single", "text": "hello", "source": "out"}
    assert (answer.body["status"], answer.body["session_id"]) == ("completed", "s-1")
    assert list(answer.body["outputs"]["out"]) == list(next(iter(RECORDED_SYNC["outputs"].values())))
    assert answer.body["outputs"]["out"]["content"] == "hello"
    assert answer.headers["X-Job-Id"] == hand.ref.job


async def test_001_stream_has_the_frames_of_1_13(api: Api) -> None:
    call, hand = await api.waiting(mode="stream", input_value="hello", session_id="s-1")
    await echoed(hand)
    answer = await call
    assert answer.status == 200
    names = [json.loads(line)["event"] for line in lines(answer.raw.decode())]
    theirs = lines(step(14, "langflow, expose_graph_state unset")["response"]["text"])
    assert names == [json.loads(line)["event"] for line in theirs]
    for name, value in step(14, "langflow, expose_graph_state unset")["response"]["headers"].items():
        assert answer.headers[name] == value
    assert answer.headers["X-Job-Id"] == hand.ref.job


async def test_002_background_is_200_with_the_members_of_1_13(api: Api) -> None:
    answer = await api.run(mode="background", input_value="hello")
    theirs = step(20, steps(20)[0]["name"])["response"]["json"]
    assert answer.status == 200
    assert list(answer.body) == list(theirs)
    assert answer.body["status"] == "queued"
    assert answer.body["links"].items() >= {"stop": "/api/v2/workflows/stop"}.items()
    assert answer.body["links"]["events"] == f"/api/v2/workflows/{answer.body['job_id']}/events"


@pytest.mark.parametrize("mode", ["sync", "stream"])
async def test_003_a_job_that_a_client_waits_for_is_one_like_any(api: Api, mode: str) -> None:
    call, hand = await api.waiting(mode=mode, input_value="hello")
    await hand.start()
    job = hand.ref.job
    status = await api.status(job)
    assert (status.body["status"], status.body["mode"], status.body["object"]) == ("in_progress", mode, "job")
    stopped = await api.stop(job)
    assert (stopped.status, stopped.body["status"]) == (200, "cancelled")
    assert '"event": "cancelled"' in await api.events(job)
    assert (await call).status == 200


async def test_004_a_sync_call_over_its_limit_is_408_and_its_job_has_timed_out(
    start_gateway: StartGateway, api: Api
) -> None:
    quick = Api(await start_gateway(langflow=Manner(sync_seconds=0.2), master_keys=MasterKeys(MASTER)), api.key)
    quick.flows = api.flows
    answer = await quick.run(input_value="hello")
    assert answer.status == 408
    detail = answer.body["detail"]
    assert (detail["code"], detail["timeout_seconds"]) == ("EXECUTION_TIMEOUT", 0.2)
    assert detail["flow_id"] == api.flows["lf-echo"]
    assert answer.headers["X-Job-Id"] == detail["job_id"]
    assert (await api.status(detail["job_id"])).body["status"] == "timed_out"


async def test_004_a_job_that_is_suspended_before_the_limit_stays(api: Api) -> None:
    call, hand = await api.waiting(input_value="hello")
    await hand.start()
    await ask(hand)
    await suspend(hand)
    answer = await call
    assert (answer.status, answer.body["status"]) == (200, "suspended")
    assert (await api.status(hand.ref.job)).body["status"] == "suspended"


async def test_004_a_gateway_that_stops_while_it_waits_leaves_the_job_running(
    start_gateway: StartGateway, api: Api
) -> None:
    other = Api(await start_gateway(master_keys=MasterKeys(MASTER)), api.key)
    other.flows = api.flows
    call, hand = await other.waiting(input_value="hello")
    await hand.start()
    other.gateway.service.stop()
    answer = await call
    assert (answer.status, answer.body["detail"]["code"]) == (503, "SERVICE_BUSY")
    assert answer.body["detail"]["job_id"] == hand.ref.job
    assert (await api.status(hand.ref.job)).body["status"] == "in_progress"


@pytest.mark.parametrize("one", steps(12), ids=lambda one: one["name"])
async def test_006_fields_of_other_modes_are_refused_as_1_13_does(api: Api, one: dict[str, Any]) -> None:
    if one["response"]["status"] != 422:
        return  # taken there, and compared with by other lines
    replay = Replay(api)
    for number in range(1, 9):
        replay.known[f"<uuid:{number}>"] = api.flows["lf-echo"]
    detail = dict(one["response"]["json"]["detail"])
    answer, theirs = await replay.play(one)
    assert answer.status == theirs["status"]
    assert answer.body == {"detail": detail}


async def test_006_files_are_refused_in_every_mode(api: Api) -> None:
    for mode in ("stream", "background"):
        answer = await api.run(mode=mode, files=["a.txt"])
        assert (answer.status, answer.body["detail"]["code"]) == (422, "MODE_UNSUPPORTED_FIELDS")
        assert answer.body["detail"]["fields"] == ["files"]


async def test_006_a_graph_runs_whole(api: Api) -> None:
    answer = await api.run(mode="background", start_component_id="brief", data={"nodes": [], "edges": []})
    assert answer.body["detail"]["fields"] == ["data", "start_component_id"]


BODIES = [one for one in steps(10) if one["name"] not in ("not JSON", "no body")]


@pytest.mark.parametrize("one", BODIES, ids=lambda one: one["name"])
async def test_007_bodies_are_refused_in_the_shapes_of_1_13(api: Api, one: dict[str, Any]) -> None:
    replay = Replay(api)
    replay.known["<uuid:1>"] = api.flows["lf-echo"]
    answer, theirs = await replay.play(one)
    assert answer.status == theirs["status"], answer.raw
    replay.same(answer.body, theirs["json"])


@pytest.mark.parametrize(
    ("raw", "kind", "place"),
    [
        (b"{x", "json_invalid", ["body", 1]),
        (b"", "missing", ["body"]),
        (b'{"flow_id": "a", "flow_id": "b"}', "value_error", ["body"]),
        (b"\xff", "json_invalid", ["body", 0]),
        pytest.param(b'{"flow_id": ' + b"9" * 5_000 + b"}", "json_invalid", ["body"], id="a number of 5,000 digits"),
    ],
)
async def test_007_what_is_no_json_is_said_in_the_list_form(api: Api, raw: bytes, kind: str, place: list[Any]) -> None:
    headers = {"x-api-key": api.key, "Authorization": "", "Content-Type": "application/json"}
    answer = await api.gateway.client.call("POST", "/api/v2/workflows", headers=headers, raw=raw)
    assert answer.status == 422
    [item] = answer.body["detail"]
    assert (item["type"], item["loc"]) == (kind, place)


@pytest.mark.parametrize("one", steps(11), ids=lambda one: f"{one['name']} {one['request']['path'][:30]}")
async def test_008_credentials_are_those_of_1_13_and_come_before_the_body(api: Api, one: dict[str, Any]) -> None:
    request, theirs = one["request"], one["response"]
    flow = api.flows["lf-echo"]
    path = request["path"].replace("<KEY>", api.key).replace("<uuid:1>", flow).replace("<uuid:3>", flow)
    headers = {n: v.replace("<KEY>", api.key) for n, v in request["headers"].items()}
    if theirs["status"] == 200:
        body = {"flow_id": flow, "mode": "background"}  # 1.13 answers a sync run here
        answer = await api.gateway.client.call("POST", path, body, headers={"Authorization": "", **headers})
        assert answer.status == 200
        return
    body = request.get("json")
    answer = await api.gateway.client.call(request["method"], path, body, headers={"Authorization": "", **headers})
    if one["name"] == "no key, bad body":  # 1.13 looks at the body first (contract 1.2)
        theirs = step(11, "no key")["response"]
    assert (answer.status, answer.body) == (theirs["status"], theirs["json"])


async def test_008_the_key_in_the_query_can_be_switched_off(start_gateway: StartGateway, api: Api) -> None:
    strict = Api(await start_gateway(langflow=Manner(query_key=False)), api.key)
    path = f"/api/v2/workflows/pending?x-api-key={api.key}"
    answer = await strict.gateway.client.call("GET", path, headers={"Authorization": ""})
    assert (answer.status, answer.body) == (403, {"detail": "No authentication credentials provided"})
    assert (await strict.pending()).status == 200


async def test_a_key_of_the_native_surface_serves_here_as_a_bearer_token(api: Api) -> None:
    assert (await api.gateway.client.get("/api/v2/workflows/pending")).status == 200


async def test_who_may_not_run_is_told_so_and_who_may_not_see_values_sees_nothing(api: Api, somebody: Any) -> None:
    reader = await somebody("bob", "read", "values")
    answer = await reader.run(mode="background")
    assert (answer.status, answer.body["detail"]["code"]) == (403, "FLOW_EXECUTE_FORBIDDEN")
    blind = await somebody("bob", "read", "execute")
    assert (await blind.run(mode="background")).status == 403


async def test_a_run_that_fails_is_200_in_sync_and_says_where(api: Api) -> None:
    call, hand = await api.waiting(input_value="hello")
    await hand.start()
    await fail(hand, details={"error_type": "ValueError"})
    answer = await call
    theirs = step(4, "run")["response"]["json"]
    assert answer.status == 200
    assert list(answer.body) == list(theirs)
    assert answer.body["output"] == theirs["output"]
    assert answer.body["has_errors"] is True
    [error] = answer.body["errors"]
    assert error["code"] == "EXECUTION_ERROR"
    assert error["details"].items() >= {"error_type": "ValueError", "flow_id": api.flows["lf-echo"]}.items()


async def test_a_flow_that_could_not_be_loaded_is_400_in_sync(api: Api) -> None:
    call, hand = await api.waiting(input_value="hello")
    await hand.start()
    await fail(hand, "No module named 'astrapy'", code="INVALID_FLOW_DATA", details={"package": "astrapy"})
    answer = await call
    assert (answer.status, answer.body["detail"]["code"]) == (400, "INVALID_FLOW_DATA")
    assert answer.body["detail"].items() >= {"package": "astrapy", "component_id": "out"}.items()
    assert answer.body["detail"]["job_id"] == hand.ref.job


async def test_100_without_a_runner_for_langflow_flows_a_run_is_refused_and_says_what_to_install(unserved: Api) -> None:
    for mode in ("sync", "stream", "background"):
        answer = await unserved.run("agent", mode=mode, idempotency_key="k")
        assert (answer.status, answer.body["detail"]["code"]) == (503, "QUEUE_SERVICE_UNAVAILABLE")
        assert "perdure[langflow]" in answer.body["detail"]["message"]
        assert answer.headers["Retry-After"]
    job = keys.job_id(unserved.gateway.tenant, Principal("user:ann"), "k", 0)
    assert (await unserved.status(job)).status == 404


async def test_the_job_of_a_key_is_where_the_rule_says(api: Api) -> None:
    answer = await api.run(mode="background", idempotency_key="k")
    assert answer.body["job_id"] == keys.job_id(api.gateway.tenant, Principal("user:ann"), "k", 0)
