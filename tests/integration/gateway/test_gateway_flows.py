"""Flows over HTTP, on both databases: checked, stored as blob before their row, versions that never change."""

import asyncio
from copy import deepcopy
from hashlib import sha256
from typing import Any

import pytest

from perdure.bus import blob
from perdure.core import codec
from perdure.core.instant import Instant
from perdure.db.engine import Database
from perdure.db.flows import list_flows
from perdure.db.jobs import upsert
from perdure.db.runners import RunnerRow, forget, see
from perdure.errors import Unavailable
from perdure.ids import Queue, Tenant, new_runner_id

Gateway = Any  # the conftest's
ECHO: dict[str, Any] = {
    "format": "perdure.graph/1",
    "name": "echo",
    "nodes": [{"id": "brief", "component": "chat_input"}, {"id": "out", "component": "text_output"}],
    "edges": [{"from": "brief.text", "to": "out.text"}],
}


def changed(text: str) -> dict[str, Any]:
    definition = deepcopy(ECHO)
    definition["nodes"][0]["inputs"] = {"default": text}
    return definition


async def put(gateway: Gateway, definition: Any, tag: str = "", name: str = "echo") -> Any:
    return await gateway.client.call("PUT", f"/api/flows/{name}", {"definition": definition}, headers={"If-Match": tag})


async def test_a_flow_is_stored_and_its_definition_lies_under_its_digest(gateway: Gateway, bus: Any) -> None:
    made = await gateway.client.post("/api/flows", {"name": "second.flow_1", "definition": ECHO})
    assert (made.status, made.headers["ETag"], made.body["version"]) == (201, '"1"', 1)
    body = codec.canonical(ECHO)
    assert made.body["digest"] == sha256(body).hexdigest()
    assert await blob.get(bus, gateway.tenant, made.body["digest"]) == body
    shown = await gateway.client.get(made.headers["Location"])
    assert shown.body == made.body
    assert (shown.body["definition"], shown.body["outputs"]) == (ECHO, ["out"])
    assert (await gateway.client.get("/api/flows/second.flow_1")).body == made.body
    assert (await gateway.client.get("/api/flows/second.flow_1", **{"If-None-Match": '"1"'})).status == 304


async def test_without_its_blob_a_definition_gets_no_row(
    gateway: Gateway, database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("no answer")

    monkeypatch.setattr(blob, "put", away)
    refused = await gateway.client.post("/api/flows", {"name": "lost", "definition": ECHO})
    assert (refused.status, refused.body["code"]) == (503, "unavailable")
    assert "Retry-After" in refused.headers
    async with database.read() as conn:
        assert [flow.name for flow in (await list_flows(conn, gateway.tenant)).rows] == ["echo"]


async def test_a_name_is_given_once(gateway: Gateway) -> None:
    taken = await gateway.client.post("/api/flows", {"name": "echo", "definition": changed("x")})
    assert (taken.status, taken.body["code"]) == (409, "name-taken")
    answers = await asyncio.gather(
        *(gateway.client.post("/api/flows", {"name": "new", "definition": changed(str(n))}) for n in range(8))
    )
    assert sorted(answer.status for answer in answers) == [201] + [409] * 7


async def test_a_change_names_the_version_that_it_changes(gateway: Gateway) -> None:
    assert (await put(gateway, changed("x"))).body["code"] == "precondition-required"
    for tag in ('"2"', '"x"', "*", '"1", "2"'):
        stale = await put(gateway, changed("x"), tag)
        assert (stale.status, stale.body["code"]) == (412, "precondition-failed"), tag
    second = await put(gateway, changed("x"), '"1"')
    assert (second.status, second.headers["ETag"], second.body["version"]) == (200, '"2"', 2)
    late = await put(gateway, changed("y"), '"1"')
    assert (late.status, late.headers["ETag"], late.body["version"]) == (412, '"2"', 2)
    same = await put(gateway, changed("x"), '"2"')
    assert (same.status, same.body["version"]) == (200, 2)  # the same definition makes no version


async def test_of_many_changes_of_one_version_one_is_made(gateway: Gateway) -> None:
    answers = await asyncio.gather(*(put(gateway, changed(str(n)), '"1"') for n in range(8)))
    assert sorted(answer.status for answer in answers) == [200] + [412] * 7
    assert (await gateway.client.get("/api/flows/echo")).body["version"] == 2


async def test_versions_stay_and_jobs_take_the_one_they_name(gateway: Gateway) -> None:
    await put(gateway, changed("x"), '"1"')
    listed = (await gateway.client.get("/api/flows/echo/versions")).body["data"]
    assert [version["version"] for version in listed] == [2, 1]
    first = (await gateway.client.get("/api/flows/echo/versions/1")).body
    assert (first["definition"], first["head"]) == (ECHO, 2)
    assert (await gateway.client.get("/api/flows/echo/versions/3")).status == 404
    newest = await gateway.client.post("/api/jobs", {"flow": "echo"})  # the new version has a default
    assert newest.body["flow"]["version"] == 2
    named = await gateway.client.post("/api/jobs", {"flow": first["id"] + "@1", "input": "y"})
    assert named.body["flow"]["version"] == 1


async def test_a_dry_run_checks_and_stores_nothing(gateway: Gateway) -> None:
    checked = await gateway.client.post("/api/flows?dry_run=true", {"name": "dry", "definition": ECHO})
    assert (checked.status, checked.body["outputs"]) == (200, ["out"])
    assert (await gateway.client.get("/api/flows/dry")).status == 404
    again = await gateway.client.call("PUT", "/api/flows/echo?dry_run=true", {"definition": changed("x")})
    assert again.status == 200
    assert (await gateway.client.get("/api/flows/echo")).body["version"] == 1


async def test_a_definition_that_cannot_run_says_where(gateway: Gateway) -> None:
    broken = deepcopy(ECHO)
    broken["nodes"][1]["component"] = "teleport"
    for answer in (
        await gateway.client.post("/api/flows?dry_run=true", {"name": "dry", "definition": broken}),
        await put(gateway, broken, '"1"'),
    ):
        assert (answer.status, answer.body["code"]) == (422, "invalid-flow")
        assert "/definition/nodes/1/component" in [error["pointer"] for error in answer.body["errors"]]
        assert b"teleport" not in answer.raw


@pytest.mark.parametrize("name", ["", "Echo", ".x", "a b", "é", "a/b", "x" * 64, "*", "a\n"])
async def test_a_flow_has_a_plain_name(gateway: Gateway, name: str) -> None:
    refused = await gateway.client.post("/api/flows", {"name": name, "definition": ECHO})
    assert (refused.status, [e["pointer"] for e in refused.body["errors"]]) == (422, ["/name"])


async def test_flows_are_listed_by_name_without_what_they_are_made_of(gateway: Gateway) -> None:
    for name in ("a", "z", "health"):
        assert (await gateway.client.post("/api/flows", {"name": name, "definition": ECHO})).status == 201
    seen, where = [], "/api/flows?limit=2"
    while where:
        page = (await gateway.client.get(where)).body
        seen += page["data"]
        where = f"/api/flows?limit=2&cursor={page['next']}" if "next" in page else ""
    assert [flow["name"] for flow in seen] == ["a", "echo", "health", "z"]
    assert all("definition" not in flow for flow in seen)


# ------------------------------------------------------------------------------------------ flows inside flows


def outer(reference: str, name: str = "outer") -> dict[str, Any]:
    return {
        "format": "perdure.graph/1",
        "name": name,
        "nodes": [
            {"id": "words", "component": "chat_input"},
            {"id": "inner", "component": "subflow", "inputs": {"flow": reference}},
            {"id": "out", "component": "text_output"},
        ],
        "edges": [{"from": "words.text", "to": "inner.brief"}, {"from": "inner.out", "to": "out.text"}],
    }


async def test_publishing_resolves_sub_flows_to_digests_and_a_job_names_them_all(gateway: Gateway, bus: Any) -> None:
    client = gateway.client
    first = (await client.get("/api/flows/echo")).body
    made = await client.post("/api/flows", {"name": "outer", "definition": outer("echo")})
    assert made.status == 201
    stored = outer(f"echo@{first['digest']}")
    assert made.body["definition"] == stored
    assert made.body["digest"] == sha256(codec.canonical(stored)).hexdigest()
    assert await blob.get(bus, gateway.tenant, made.body["digest"]) == codec.canonical(stored)
    top = await client.post("/api/flows", {"name": "top", "definition": outer("outer@1", "top") | {"edges": [
        {"from": "words.text", "to": "inner.words"}, {"from": "inner.out", "to": "out.text"}]}})  # fmt: skip
    assert top.status == 201
    job = await client.post("/api/jobs", {"flow": "top", "input": "hello"})
    assert job.status == 202
    (submitted,) = await gateway.desk.eventlog.read(gateway.hand(job.body["id"]).ref)
    assert submitted.event.refs == (top.body["digest"], made.body["digest"], first["digest"])
    # a new version of the inner flow changes nothing that is published; publishing again takes it up
    assert (await put(gateway, changed("x"), '"1"')).status == 200
    assert (await client.get("/api/flows/outer")).body["definition"] == stored
    again = await put(gateway, outer("echo"), '"1"', "outer")
    newest = (await client.get("/api/flows/echo")).body["digest"]
    assert (again.status, again.body["version"]) == (200, 2)
    assert again.body["definition"] == outer(f"echo@{newest}")
    for pinned in ("echo@1", f"echo@{first['digest']}", first["id"], f"{first['id']}@1"):
        answer = await client.post("/api/flows?dry_run=true", {"name": "dry", "definition": outer(pinned)})
        assert answer.status == 200, pinned
        assert (answer.body["digest"] == made.body["digest"]) == (pinned != first["id"])


async def test_a_sub_flow_that_is_not_there_or_has_other_ports_is_refused_at_its_place(gateway: Gateway) -> None:
    for reference in ("nobody", "echo@9", "echo@" + "0" * 64, "stranger"):
        refused = await gateway.client.post("/api/flows", {"name": "outer", "definition": outer(reference)})
        assert (refused.status, refused.body["code"]) == (422, "invalid-flow"), reference
        assert [(e["pointer"], e["code"]) for e in refused.body["errors"]] == [
            ("/definition/nodes/1/inputs/flow", "unknown-flow")
        ]
    wrong = outer("echo")
    wrong["edges"][0]["to"] = "inner.text"
    refused = await gateway.client.post("/api/flows", {"name": "outer", "definition": wrong})
    assert {(e["pointer"], e["code"]) for e in refused.body["errors"]} == {
        ("/definition/edges/0/to", "unknown-port"), ("/definition/nodes/1/inputs/brief", "missing")
    }  # fmt: skip


async def test_a_flow_that_would_contain_itself_is_refused(gateway: Gateway) -> None:
    assert (await gateway.client.post("/api/flows", {"name": "a", "definition": outer("echo", "a")})).status == 201
    inside = outer("a", "b") | {"edges": [
        {"from": "words.text", "to": "inner.words"}, {"from": "inner.out", "to": "out.text"}]}  # fmt: skip
    assert (await gateway.client.post("/api/flows", {"name": "b", "definition": inside})).status == 201
    for reference in ("b", "a", "a@1"):
        loop = outer(reference, "a") | {"edges": inside["edges"]}
        refused = await put(gateway, loop, '"1"', "a")
        assert (refused.status, refused.body["code"]) == (422, "invalid-flow"), reference
        assert [(e["pointer"], e["code"]) for e in refused.body["errors"]] == [
            ("/definition/nodes/1/inputs/flow", "cycle")
        ]


# ------------------------------------------------------------------------------------------ components of users


def announced(tenant: Any, at: str, **entry: Any) -> RunnerRow:
    return RunnerRow(
        runner=new_runner_id(),
        version="0",
        queues=(Queue("default"),),
        priorities=("normal",),
        slots=1,
        running=0,
        tenants=(tenant,),
        flows={},
        components=({"name": "shorten", "outputs": [{"name": "text", "type": "text"}], **entry},),
        first_seen_at=Instant(at),
        seen_at=Instant(at),
    )


async def test_a_flow_may_be_made_of_what_the_tenant_s_runners_announce(gateway: Gateway, database: Database) -> None:
    client, now = gateway.client, gateway.desk.clock.broker_now()
    port = {"name": "text", "type": "text", "literal": "text", "required": True}
    definition: dict[str, Any] = {
        "format": "perdure.graph/1",
        "name": "own",
        "nodes": [{"id": "in", "component": "chat_input"}, {"id": "own", "component": "shorten"}],
        "edges": [{"from": "in.text", "to": "own.text"}],
    }

    async def see_one(row: RunnerRow) -> RunnerRow:
        async with database.transaction() as conn:
            await see(conn, row)
        return row

    async def dry() -> Any:
        return await client.post("/api/flows?dry_run=true", {"name": "own", "definition": definition})

    refused = await dry()
    assert (refused.status, refused.body["errors"][0]["code"]) == (422, "unknown-component")
    await see_one(announced(Tenant("stranger"), now, inputs=[port]))
    assert (await dry()).status == 422
    broken = await see_one(announced(gateway.tenant, now, inputs=[port | {"type": "picture"}]))
    assert (await dry()).status == 422
    runner = await see_one(announced(gateway.tenant, now, inputs=[port]))
    made = await client.post("/api/flows", {"name": "own", "definition": definition})
    assert (made.status, made.body["outputs"]) == (201, ["own"])
    wrong = definition | {"edges": [{"from": "in.text", "to": "own.word"}]}
    answer = await client.post("/api/flows?dry_run=true", {"name": "own", "definition": wrong})
    assert {error["code"] for error in answer.body["errors"]} == {"unknown-port", "missing"}
    # a fleet that is away takes jobs all the same; it only cannot be told what it would run
    async with database.transaction() as conn:
        await forget(conn, runner.runner)
        await forget(conn, broken.runner)
    assert (await client.post("/api/jobs", {"flow": "own", "input": "hello"})).status == 202
    assert (await dry()).status == 422


async def test_an_old_version_becomes_the_newest_again(gateway: Gateway) -> None:
    made = await gateway.client.post("/api/flows", {"name": "back", "definition": ECHO})
    assert (await put(gateway, changed("two"), '"1"', name="back")).body["version"] == 2
    for _ in range(2):  # the second time it is that version already
        back = await gateway.client.post("/api/flows/back/versions/1/restore")
        assert (back.status, back.headers["ETag"], back.body["version"]) == (200, '"3"', 3)
        assert (back.body["digest"], back.body["definition"]) == (made.body["digest"], ECHO)
    assert (await gateway.client.post("/api/flows/back/versions/9/restore")).status == 404


async def test_a_flow_is_deleted_when_no_job_of_it_lives_or_its_jobs_are_to_be_cancelled(
    gateway: Gateway, database: Database
) -> None:
    hand = await gateway.submit()
    await hand.log.refresh()
    async with database.transaction() as conn:
        await upsert(conn, hand.ref, hand.log.state, hand.log.tail)
    refused = await gateway.client.call("DELETE", "/api/flows/echo")
    assert (refused.status, refused.body["code"]) == (409, "in-use")
    assert (await gateway.client.get("/api/flows/echo")).status == 200
    assert (await gateway.client.call("DELETE", "/api/flows/echo?cancel_jobs=true")).status == 204
    assert (await gateway.client.get(f"/api/jobs/{hand.ref.job}")).body["status"] == "cancelled"
    for path in ("/api/flows/echo", "/api/flows/echo/versions/1"):
        assert (await gateway.client.get(path)).status == 404
    assert (await gateway.client.call("DELETE", "/api/flows/echo")).status == 404
    assert (await gateway.client.post("/api/jobs", {"flow": "echo", "input": "a"})).status == 404
    assert (await gateway.client.post("/api/flows", {"name": "echo", "definition": ECHO})).body["version"] == 1
