"""The part of `/api/v1` that Langflow's clients need, compared with the recordings 35 to 38."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from tests.integration.gateway.conftest import Answer
from tests.integration.langflow.conftest import Api, Somebody
from tests.integration.langflow.replay import Replay
from tests.unit.langflow.recordings import step, steps

from perdure_gateway import bodies

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


PART = b'--b\r\nContent-Disposition: form-data; name="%s"\r\n\r\n'


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        pytest.param(b"--b\r\nno header\r\n\r\nx\r\n--b--\r\n", 400, id="no header"),
        pytest.param(b"--b\r\nX: " + b"a" * 100_000 + b"\r\n\r\nx\r\n--b--\r\n", 400, id="a long header"),
        pytest.param(b"--b\r\n" + b"X: 1\r\n" * 5_000 + b"\r\nx\r\n--b--\r\n", 400, id="many headers"),
        pytest.param(
            b"--b\r\nContent-Type: multipart/mixed; boundary=c\r\n\r\n--c\r\n\r\nx\r\n--c--\r\n--b--\r\n",
            400,
            id="a form in a form",
        ),
        pytest.param(PART % b"other" + b"x\r\n--b--\r\n", 400, id="another member"),
        pytest.param(PART % b"file" + b"[", 422, id="no end"),
    ],
)
async def test_a_form_that_is_none_is_refused(bare: Api, raw: bytes, status: int) -> None:
    assert (await posted(bare, [raw])).status == status


async def test_what_stands_before_the_file_of_a_form_counts(bare: Api) -> None:
    """In chunks, so that no length is said before."""
    answer = await posted(bare, [PART % b"other", *[b"x" * (1 << 20)] * 17])
    assert (answer.status, answer.body["detail"][0]["type"]) == (422, "too_large")


async def test_a_form_that_does_not_end_is_waited_for_no_longer_than_a_body(
    bare: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "READ_SECONDS", 0.2)
    over = asyncio.Event()
    call = asyncio.create_task(posted(bare, [PART % b"other"], over))
    try:
        async with asyncio.timeout(10):
            assert (await call).status == 408
    finally:
        over.set()


async def posted(bare: Api, parts: list[bytes], over: asyncio.Event | None = None) -> Answer:
    """A form by hand, in chunks; with `over` it does not end before that."""

    async def body() -> AsyncIterator[bytes]:
        for part in parts:
            yield part
        if over is not None:
            await over.wait()

    url = f"{bare.gateway.client.url}/api/v1/flows/upload/"
    headers = {"x-api-key": bare.key, "Content-Type": "multipart/form-data; boundary=b"}
    async with bare.gateway.client._session.post(url, data=body(), headers=headers) as response:
        return Answer(response.status, response.headers, await response.read())
