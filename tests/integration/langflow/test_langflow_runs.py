"""Lines 9 to 37 that concern HTTP: outputs, sessions, globals, tweaks, idempotency, status."""

import asyncio
import json
from typing import Any

import pytest
from tests.integration.gateway.conftest import Answer, StartGateway
from tests.integration.langflow.conftest import MASTER, Api, Somebody, ask, echoed, fail, step, suspend
from tests.unit.langflow import recordings

from perdure.core import event as ev
from perdure.core.langflow.overrides import Overrides
from perdure.jobs.overrides import unseal
from perdure.seal import MasterKeys
from perdure.testing.hand import Hand
from perdure_gateway.langflow.manner import Manner

Project = Any
MODEL = [{"name": "m", "provider": "OpenAI"}]


async def both(hand: Hand, **results: str) -> None:
    """Run `lf-two` to its end with these outputs."""
    await hand.start()
    await step(hand, "brief", "x")
    for name, text in results.items():
        await step(hand, name, text, output=ev.Named(name=name, kind="text"), component="text_output")
    await hand.complete(**results)


@pytest.mark.parametrize("text", ["hello", "", "x" * 200_000])
async def test_009_and_016_one_text_comes_back_whole_in_every_mode(api: Api, text: str) -> None:
    for mode in ("sync", "stream"):
        call, hand = await api.waiting(mode=mode)
        await echoed(hand, text)
        answer = await call
        if mode == "sync":
            assert answer.body["output"] == {"reason": "single", "text": text, "source": "out"}
        else:
            frames = map(json.loads, recordings.lines(answer.raw.decode()))
            [output] = [frame["data"]["content"] for frame in frames if frame["event"] == "output"]
            assert output == text
        assert (await api.status(hand.ref.job)).body["output"]["text"] == text


async def test_010_two_texts_are_multiple_and_014_output_ids_choose_one(api: Api) -> None:
    call, hand = await api.waiting("lf-two")
    await both(hand, one="1", two="2")
    assert (await call).body["output"] == {"reason": "multiple", "text": None, "source": None}
    call, hand = await api.waiting("lf-two", output_ids=["two"])
    await both(hand, one="1", two="2")
    answer = await call
    assert answer.body["output"] == {"reason": "single", "text": "2", "source": "two"}
    assert set(answer.body["outputs"]) == {"one", "two"}
    assert (await api.status(hand.ref.job)).body["output"] == answer.body["output"]


async def test_014_an_empty_list_is_none_and_what_is_not_terminal_is_refused(api: Api) -> None:
    call, hand = await api.waiting("lf-two", output_ids=[])
    await both(hand, one="1", two="2")
    assert (await call).body["output"]["reason"] == "multiple"
    answer = await api.run("lf-two", output_ids=["brief"])
    assert answer.status == 422
    assert answer.body["detail"].items() >= {"code": "UNKNOWN_OUTPUT_IDS", "available": ["one", "two"]}.items()


async def test_015_in_sync_the_branch_not_taken_is_listed_as_skipped_and_does_not_count(api: Api) -> None:
    call, hand = await api.waiting("lf-two")
    await both(hand, one="1")
    answer = await call
    assert answer.body["output"] == {"reason": "single", "text": "1", "source": "one"}
    assert answer.body["outputs"]["two"]["metadata"]["skipped"] is True
    job = await api.background("lf-two")
    await both(job, one="1")
    assert set((await api.status(job.ref.job)).body["outputs"]) == {"one"}


async def test_013_a_failed_job_keeps_what_it_had(api: Api) -> None:
    hand = await api.background("lf-two")
    await hand.start()
    await step(hand, "one", "1", output=ev.Named(name="one", kind="text"), component="text_output")
    await fail(hand)
    status = await api.status(hand.ref.job)
    assert status.body["output"] == {"reason": "failed", "text": None, "source": None}
    assert status.body["outputs"]["one"]["content"] == "1"


async def test_019_the_status_of_a_completed_job_is_the_sync_answer_but_for_globals_and_inputs(api: Api) -> None:
    call, hand = await api.waiting(input_value="x", globals={"A": "1"}, tweaks={"brief": {"default": "d"}})
    await echoed(hand)
    answer = (await call).body
    status = (await api.status(hand.ref.job)).body
    assert (answer["globals"], answer["inputs"]) == ({"A": "1"}, {"brief": {"default": "d"}})
    assert (status["globals"], status["inputs"]) == ({}, {})
    assert {n: status[n] for n in answer} | {"globals": 0, "inputs": 0} == answer | {"globals": 0, "inputs": 0}


@pytest.mark.parametrize("session", [None, ""])
async def test_020_without_a_session_it_is_the_flow(api: Api, session: str | None) -> None:
    hand = await api.background(session_id=session)
    await echoed(hand)
    assert (await api.status(hand.ref.job)).body["session_id"] == api.flows["lf-echo"]


async def sealed(hand: Hand) -> Overrides:
    """What is sealed with a job."""
    await hand.log.refresh()
    submitted = (await hand.log.resolve())[0]
    assert isinstance(submitted, ev.JobSubmitted)
    return unseal(MasterKeys(MASTER), hand.ref.tenant, submitted.data)


async def test_021_globals_of_the_body_beat_those_of_headers_and_jobs_do_not_echo_them(api: Api) -> None:
    headers = {"X-LANGFLOW-GLOBAL-VAR-FOO": "header", "x-langflow-global-var-bar": "b"}
    answer = await api.run(mode="background", globals={"FOO": "body"}, _headers=headers)
    assert answer.body["globals"] == {}
    found = await sealed(api.hand(answer.body["job_id"]))
    assert found.globals == {"FOO": "body", "BAR": "b"}


@pytest.mark.parametrize(
    "tweaks", [{"brief": {"default": "new"}}, {"Chat Input": {"default": "new"}}, {"default": "new"}]
)
@pytest.mark.parametrize("mode", ["sync", "stream", "background"])
async def test_023_three_forms_of_tweaks_do_the_same_in_all_modes(api: Api, tweaks: Any, mode: str) -> None:
    if mode == "background":
        hand = await api.background(tweaks=tweaks, input_value="")
    else:
        call, hand = await api.waiting(mode=mode, tweaks=tweaks)
        await echoed(hand)
        assert (await call).status == 200
    assert (await sealed(hand)).tweaks == {"brief": {"default": "new"}}
    assert hand.log.state.submitted is not None
    assert hand.log.state.submitted.input == {"brief": "new"}


async def test_023_a_list_of_objects_is_a_value(langflows: Api) -> None:
    hand = await langflows.background("agent", tweaks={"model": MODEL})
    assert (await sealed(hand)).tweaks == {"Agent-1": {"model": MODEL}}


async def test_024_a_refused_tweak_makes_no_job(langflows: Api) -> None:
    answer = await langflows.run("agent", mode="background", tweaks={"code": "import os"}, idempotency_key="k")
    theirs = recordings.step(9, "refused field")["response"]["json"]
    assert (answer.status, answer.body) == (422, theirs)
    again = await langflows.run("agent", mode="background", idempotency_key="k")
    assert (again.status, "Idempotency-Replayed" in again.headers) == (200, False)


async def test_024_a_tweak_that_is_no_such_literal_makes_no_job(api: Api) -> None:
    answer = await api.run(mode="background", tweaks={"brief": {"default": 5}})
    assert answer.status == 422
    assert answer.body["detail"][0]["loc"] == ["body", "tweaks"]


async def test_026_no_plaintext_of_a_tweak_or_global_is_in_the_log(api: Api) -> None:
    canary = "canary-7f3a"
    hand = await api.background(tweaks={"brief": {"default": canary}}, globals={"KEY": canary}, input_value="x")
    await hand.log.refresh()
    assert all(canary.encode() not in stored.body for stored in hand.log.entries)
    assert (await sealed(hand)).globals == {"KEY": canary}


async def test_026_without_a_master_key_overrides_are_refused_and_others_run(
    start_gateway: StartGateway, api: Api
) -> None:
    keyless = Api(await start_gateway(), api.key)
    keyless.flows = api.flows
    answer = await keyless.run(mode="background", globals={"A": "1"})
    assert (answer.status, answer.body["detail"]["code"]) == (503, "REQUEST_OVERRIDES_UNAVAILABLE")
    assert answer.headers["Retry-After"]
    assert (await keyless.run(mode="background")).status == 200


@pytest.mark.parametrize("session", [None, "s-1"])
async def test_027_the_input_beats_a_tweak_and_an_empty_one_keeps_what_is_stored(api: Api, session: str | None) -> None:
    tweaks = {"brief": {"default": "tweaked"}}
    for text, given, expected in (("in", tweaks, "in"), ("", tweaks, "tweaked"), ("", {}, "stored")):
        hand = await api.background(input_value=text, tweaks=given, session_id=session)
        await hand.log.refresh()
        assert hand.log.state.submitted is not None
        assert hand.log.state.submitted.input == {"brief": expected}


async def test_028_a_hundred_submits_with_one_key_make_one_job(api: Api) -> None:
    answers = await asyncio.gather(*(api.run(mode="background", idempotency_key="k") for _ in range(100)))
    assert {answer.status for answer in answers} == {200}
    assert len({answer.body["job_id"] for answer in answers}) == 1
    hand = api.hand(answers[0].body["job_id"])
    await hand.log.refresh()
    assert hand.log.state.seq == 1


async def test_029_a_replay_shows_the_job_as_it_is(api: Api) -> None:
    hand = await api.background(idempotency_key="k")
    await echoed(hand)
    again = await api.run(mode="background", input_value="hello", idempotency_key="k")
    assert (again.body["job_id"], again.body["status"]) == (hand.ref.job, "completed")


async def test_029_the_header_counts_in_sync_too(api: Api) -> None:
    call, hand = await api.waiting(input_value="hello")
    await echoed(hand)
    first = await call
    again = await api.run("lf-echo", {"Idempotency-Key": call.get_name()}, input_value="hello")
    assert again.body["job_id"] == first.body["job_id"]
    assert again.body["output"] == first.body["output"]


async def test_030_another_body_or_flow_under_the_key_is_422(api: Api) -> None:
    hand = await api.background(idempotency_key="k")
    for flow, text in (("lf-echo", "other"), ("lf-two", "hello")):
        answer = await api.run(flow, mode="background", input_value=text, idempotency_key="k")
        assert (answer.status, answer.body["detail"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED")
        assert answer.body["detail"]["job_id"] == hand.ref.job


@pytest.mark.parametrize("end", ["completed", "failed"])
async def test_030_the_key_of_a_job_that_was_deleted_makes_nothing(api: Api, project: Project, end: str) -> None:
    hand = await api.background(idempotency_key="k")
    if end == "completed":
        await echoed(hand)
    else:
        await hand.start()
        await fail(hand)
    await project(hand)
    assert (await api.gateway.client.call("DELETE", f"/api/jobs/{hand.ref.job}")).status == 204
    for mode in ("background", "sync", "stream"):
        async with asyncio.timeout(10):
            answer = await api.run(
                "lf-echo",
                {"Idempotency-Key": "k"} if mode != "background" else None,
                mode=mode,
                input_value="hello",
                **({"idempotency_key": "k"} if mode == "background" else {}),
            )
        assert (answer.status, answer.body["detail"]["code"]) == (422, "IDEMPOTENCY_KEY_REUSED"), answer.raw
        assert "deleted" in answer.body["detail"]["message"]


async def test_030_two_keys_that_differ_are_refused(api: Api) -> None:
    answer = await api.run("lf-echo", {"Idempotency-Key": "a"}, mode="background", idempotency_key="b")
    assert (answer.status, answer.body["detail"][0]["loc"]) == (422, ["header", "idempotency-key"])


@pytest.mark.parametrize("end", ["failed", "cancelled", "timed_out"])
async def test_031_the_key_of_a_job_that_ended_badly_makes_a_new_one_once(api: Api, end: str) -> None:
    hand = await api.background(idempotency_key="k")
    await hand.start()
    fingerprint = hand.log.state.fingerprint
    assert fingerprint is not None
    if end == "failed":
        await fail(hand)
    elif end == "cancelled":
        await hand.add(ev.CancelledData(fingerprint=fingerprint))
    else:
        await hand.add(ev.TimedOutData(deadline_at=hand.log.entries[0].event.at, fingerprint=fingerprint))
    answers = await asyncio.gather(
        *(api.run(mode="background", input_value="hello", idempotency_key="k") for _ in range(10))
    )
    [again] = {answer.body["job_id"] for answer in answers}
    assert again != hand.ref.job


async def test_032_two_owners_with_one_key_have_two_jobs(api: Api, somebody: Somebody) -> None:
    bob = await somebody("bob")
    first = await api.run(mode="background", idempotency_key="k")
    second = await bob.run(mode="background", idempotency_key="k")
    assert first.body["job_id"] != second.body["job_id"]


async def test_034_a_failed_job_is_200_and_legacy_answers_as_1_13(start_gateway: StartGateway, api: Api) -> None:
    hand = await api.background()
    await hand.start()
    await fail(hand, details={"error_type": "ValueError"})
    ours = await api.status(hand.ref.job)
    assert (ours.status, ours.body["status"]) == (200, "failed")
    assert ours.body["errors"][0]["details"]["component_id"] == "out"
    legacy = Api(await start_gateway(langflow=Manner(legacy=True)), api.key)
    answer = await legacy.status(hand.ref.job)
    theirs = recordings.step(24, "status, failed")["response"]["json"]["detail"]
    assert (answer.status, list(answer.body["detail"])) == (500, list(theirs))
    assert answer.body["detail"]["message"] == f"Job {hand.ref.job} has failed execution."


async def test_035_times_are_the_jobs_and_progress_rises(api: Api) -> None:
    hand = await api.background()
    queued = (await api.status(hand.ref.job)).body
    assert (queued["started_at"], queued["attempt"], queued["progress"]["completed"]) == (None, 0, 0)
    await hand.start()
    await step(hand, "brief", "x")
    running = (await api.status(hand.ref.job)).body
    assert running["started_at"] >= queued["created_at"]
    assert running["progress"] == {"completed": 1, "total": 2, "current": []}
    await step(hand, "out", "x", output=ev.Named(name="out", kind="message"))
    await hand.complete(out="x")
    done = (await api.status(hand.ref.job)).body
    assert done["progress"] == {"completed": 2, "total": 2, "current": []}
    assert done["ended_at"] >= done["started_at"]


@pytest.mark.parametrize(
    "one", [s for s in recordings.steps(13) if s["name"] != "pending, no flow_id"], ids=lambda s: s["name"]
)
async def test_036_ids_that_mean_nothing_are_told_as_1_13_tells_them(api: Api, one: dict[str, Any]) -> None:
    request, theirs = json.loads(json.dumps(one)), one["response"]
    unknown = "00000000-0000-4000-8000-000000000001"
    text = json.dumps(request["request"]).replace("<uuid:1>", unknown).replace("<uuid:2>", api.flows["lf-echo"])
    asked = json.loads(text)
    answer = await api.call(asked["method"], asked["path"], asked.get("json"))
    assert answer.status == theirs["status"], answer.raw
    expected = json.loads(json.dumps(theirs["json"]).replace("<uuid:1>", unknown))
    if one["name"] == "pending, bad id":  # how Pydantic words it is no contract
        expected["detail"][0]["msg"] = answer.body["detail"][0]["msg"]
    assert answer.body == expected


async def test_036_a_foreign_job_is_404_like_an_unknown_one(api: Api, stranger: Api) -> None:
    hand = await api.background()
    job, nobody = hand.ref.job, "00000000-0000-4000-8000-000000000001"

    async def asked(who: Api, j: str) -> list[Answer]:
        events = await who.call("GET", f"/api/v2/workflows/{j}/events")
        return [await who.status(j), await who.stop(j), await who.resume(j, "x"), events]

    for foreign, unknown in zip(await asked(stranger, job), await asked(api, nobody), strict=True):
        assert (foreign.status, unknown.status) == (404, 404)
        assert foreign.raw.replace(job.encode(), b"") == unknown.raw.replace(nobody.encode(), b"")


async def test_037_a_job_stays_readable_when_its_flow_is_deleted(api: Api) -> None:
    hand = await api.background()
    await echoed(hand)
    assert (await api.gateway.client.call("DELETE", f"/api/flows/{api.flows['lf-echo']}")).status == 204
    status = await api.status(hand.ref.job)  # 1.13: 404
    assert (status.status, status.body["output"]["text"]) == (200, "hello")
    assert '"event": "end"' in await api.events(hand.ref.job)
    assert (await api.run(mode="background")).status == 404


async def test_046_outputs_before_a_pause_are_in_the_status(api: Api) -> None:
    hand = await api.background("lf-two")
    await hand.start()
    await step(hand, "one", "1", output=ev.Named(name="one", kind="text"), component="text_output")
    await ask(hand)
    await suspend(hand)
    assert (await api.status(hand.ref.job)).body["outputs"]["one"]["content"] == "1"
