"""The part of `/api/v1` that Langflow's clients need, compared with the recordings 35 to 38."""

from typing import Any

import pytest
from tests.integration.langflow.conftest import Api, Somebody
from tests.integration.langflow.replay import Replay
from tests.unit.langflow.recordings import step, steps

EMPTY: dict[str, Any] = {"nodes": [], "edges": [], "viewport": {"x": 0, "y": 0, "zoom": 1}}
OTHER_MESSAGES = ("create, no name", "create, no edges", "create, no nodes", "create, bad endpoint", "get, bad id")


@pytest.mark.parametrize("number", [36, 38])
async def test_090_a_client_of_1_13_uploads_lists_patches_and_deletes(bare: Api, number: int) -> None:
    replay = Replay(bare)
    for one in steps(number):
        answer, theirs = await replay.play(one)
        assert answer.status == theirs["status"], (one["name"], answer.raw)
        if one["name"] in OTHER_MESSAGES:  # 1.13 lists each fault twice
            ours = [(item["type"], item["loc"]) for item in answer.body["detail"]]
            assert ours == [(item["type"], item["loc"]) for item in theirs["json"]["detail"][: len(ours)]]
        elif one["name"] == "upload, no name":
            assert isinstance(answer.body["detail"], str)
        elif one["name"] == "patch, stale If-Match":
            detail = theirs["json"]["detail"]
            detail["modified_by"]["username"] = "user:ann"
            replay.same(answer.body["detail"], detail)
        else:
            replay.same(answer.body, theirs["json"])


async def test_090_lists_are_those_of_1_13(bare: Api) -> None:
    for name in ("a", "b", "c"):
        assert (await bare.call("POST", "/api/v1/flows", {"name": name, "data": EMPTY})).status == 201
    replay = Replay(bare)
    for one in steps(37):
        if one["request"]["method"] == "GET" and one["name"] != "no trailing slash":
            answer, theirs = await replay.play(one)
            assert answer.status == 200
            replay.same(answer.body, theirs["json"])
    assert (await bare.call("GET", "/api/v1/flows")).status == 200  # 1.13 answers 307


async def test_090_a_stale_change_loses_and_leaves_nothing(bare: Api) -> None:
    made = (await bare.call("POST", "/api/v1/flows/", {"name": "one", "data": EMPTY})).body
    path, other = f"/api/v1/flows/{made['id']}", EMPTY | {"viewport": {"x": 1}}
    assert (await bare.call("PATCH", path, {"data": other})).status == 200
    stale = await bare.call("PATCH", path, {"name": "two"}, If_Match=f'"{made["version_token"]}"')
    assert stale.status == 409
    assert (await bare.call("GET", path)).body["name"] == "one"


async def test_090_two_flows_with_one_id_are_two_flows(bare: Api) -> None:
    flow = "11111111-1111-4111-8111-111111111111"
    ids = [
        (await bare.call("POST", "/api/v1/flows/", {"name": "n", "data": EMPTY, "id": flow})).body["id"] for _ in "ab"
    ]
    assert ids[0] == flow
    assert ids[1] != flow


async def test_a_flow_of_another_tenant_is_not_there_and_its_id_is_not_told(bare: Api, stranger: Api) -> None:
    made = (await bare.call("POST", "/api/v1/flows/", {"name": "one", "data": EMPTY})).body
    path = f"/api/v1/flows/{made['id']}"
    for method in ("GET", "PATCH", "DELETE", "PUT"):
        body = {"name": "x"} if method in ("PATCH", "PUT") else None
        assert (await stranger.call(method, path, body)).body == {"detail": "Flow not found"}
    assert (await stranger.call("GET", "/api/v1/flows/")).body == []
    assert (await bare.call("GET", path)).body["name"] == "one"


async def test_who_may_not_edit_changes_nothing(bare: Api, somebody: Somebody) -> None:
    reader = await somebody("bob", "read", "execute", "values")
    assert (await reader.call("POST", "/api/v1/flows/", {"name": "x"})).status == 403
    assert (await reader.call("GET", "/api/v1/flows/")).status == 200


async def test_the_server_says_what_it_is_like_without_a_key(bare: Api) -> None:
    nobody = bare.using("")
    theirs = step(35, "no key")["response"]["json"]
    answer = await nobody.call("GET", "/api/v1/version", x_api_key="")
    assert theirs.items() <= answer.body.items()
    assert answer.body["perdure"]
    assert (await nobody.call("GET", "/health", x_api_key="")).body == {"status": "ok"}
    refused = await nobody.call("GET", "/api/v1/auto_login", x_api_key="")
    assert (refused.status, refused.body["detail"]["auto_login"]) == (403, False)


async def test_a_graph_flow_is_listed_and_changed_elsewhere(api: Api) -> None:
    listed = (await api.call("GET", "/api/v1/flows/")).body
    assert {flow["name"]: flow["data"] for flow in listed} == {"lf-echo": None, "lf-two": None}
    path = f"/api/v1/flows/{api.flows['lf-echo']}"
    assert (await api.call("PATCH", path, {"name": "x"})).status == 409
    assert (await api.call("DELETE", path)).status == 409
