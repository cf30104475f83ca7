"""Subjects: whatever text comes in, a name that matches exactly one job goes out, or nothing does."""

import re
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.bus import subject
from perdure.errors import Malformed
from perdure.ids import Digest, JobId, JobRef, Queue, Tenant

JOB = JobId("0199aaaa-0000-7000-8000-00000000000c")
OTHER = JobId("0199aaaa-0000-7000-8000-00000000000d")
NASTY = [
    "",
    "*",
    ">",
    "a.b",
    "a b",
    "a\r\nPUB x 1",
    "\x00",
    "é",
    "A",
    "-",
    ".",
    "$JS",
    "a" * 33,
    "a" * 5000,
    JOB.upper(),
    JOB + "\n",
]


def matches(pattern: str, name: str) -> bool:
    """Whether a NATS filter matches a literal subject (the rule of the protocol, written again)."""
    wanted, given_ = pattern.split("."), name.split(".")
    for i, token in enumerate(wanted):
        if token == ">":
            return len(given_) > i
        if i >= len(given_) or (token != "*" and token != given_[i]):
            return False
    return len(wanted) == len(given_)


BUILDERS: list[Callable[[str, str], str]] = [
    lambda tenant, job: subject.event_subject(8, JobRef(Tenant(tenant), JobId(job))),
    lambda tenant, job: subject.public_event_subject(JobRef(Tenant(tenant), JobId(job))),
    lambda tenant, job: subject.delta_subject(JobRef(Tenant(tenant), JobId(job))),
    lambda tenant, job: subject.work_subject(Queue(tenant), "normal", JobId(job)),
    lambda tenant, job: subject.alarm_subject(JobId(job), tenant),
]

ALPHABET = st.sampled_from([*"abz09-_.*>$ \r\n\t\x00éA", JOB, OTHER])
TEXTS = st.text() | st.lists(ALPHABET, max_size=6).map("".join) | st.sampled_from([*NASTY, JOB, OTHER, "t1"])


@pytest.mark.parametrize("build", BUILDERS)
@given(tenant=TEXTS, job=TEXTS)
@example(tenant="t1", job=JOB)
def test_any_text_is_refused_or_names_exactly_one_job(build: Callable[[str, str], str], tenant: str, job: str) -> None:
    try:
        name = build(tenant, job)
    except Malformed:
        return
    assert matches(name, name)
    assert len(name) < 200
    assert re.fullmatch(r"[a-z0-9_.-]+", name)
    for other in (build("t2", job) if tenant != "t2" else None, build(tenant, OTHER) if job != OTHER else None):
        assert other is None or not matches(name, other)


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("text", NASTY)
def test_nasty_ids_are_refused_in_each_place(build: Callable[[str, str], str], text: str) -> None:
    with pytest.raises(Malformed):
        build("t1", text)
    with pytest.raises(Malformed):
        build(text, JOB)


@given(text=TEXTS)
def test_what_is_parsed_as_a_log_is_built_the_same(text: str) -> None:
    try:
        ref = subject.parse_event_subject(text)
    except Malformed:
        return
    assert text.endswith(f".{ref.tenant}.{ref.job}")
    subject.event_subject(8, ref)  # does not raise: what comes in may go out


def test_a_log_lies_in_the_shard_of_its_last_digit() -> None:
    ref = JobRef(Tenant("t1"), JOB)
    assert subject.event_subject(8, ref) == f"ev.4.t1.{JOB}"
    assert subject.event_subject(16, ref) == f"ev.12.t1.{JOB}"
    assert subject.event_subject(1, ref) == f"ev.0.t1.{JOB}"
    assert subject.parse_event_subject(f"ev.4.t1.{JOB}") == ref


@pytest.mark.parametrize("shards", [0, 3, 32, -8])
def test_a_shard_count_that_is_no_power_of_two_up_to_16_is_refused(shards: int) -> None:
    with pytest.raises(Malformed):
        subject.shard_of(JOB, shards)


def test_doorbells_alarms_and_blobs_have_their_places() -> None:
    digest = Digest("a" * 64)
    assert subject.work_subject(Queue("gpu"), "high", JOB) == f"work.gpu.high.{JOB}"
    assert subject.parse_work_subject(f"work.gpu.high.{JOB}") == ("gpu", "high", JOB)
    assert subject.alarm_subject(JOB, "q17") == f"at.{JOB}.q17"
    assert subject.blob_subject(Tenant("t1"), digest, 3) == f"blob.t1.{digest}.3"
    assert subject.queue_filter(Queue("gpu"), "low") == "work.gpu.low.*"
    assert subject.consumer(Queue("gpu"), "low") == "gpu_low"
    assert subject.public_event_subject(JobRef(Tenant("t1"), JOB)) == f"job.t1.{JOB}.event"
    assert subject.delta_subject(JobRef(Tenant("t1"), JOB)) == f"job.t1.{JOB}.delta"


@pytest.mark.parametrize(
    "text", [f"work.gpu.urgent.{JOB}", "work.gpu.low.x", f"work.gpu.low.{JOB}.x", f"ev.0.t1.{JOB}", "work..low." + JOB]
)
def test_what_is_no_doorbells_subject_is_not_parsed(text: str) -> None:
    with pytest.raises(Malformed):
        subject.parse_work_subject(text)


@pytest.mark.parametrize("digest", ["", "a" * 63, "A" * 64, "*", "a" * 64 + "\n"])
def test_a_blob_is_named_by_a_hash_only(digest: str) -> None:
    with pytest.raises(Malformed):
        subject.blob_subject(Tenant("t1"), Digest(digest), 0)


@given(text=TEXTS)
@example(text=JOB)
def test_a_replays_subject_names_a_tenant_and_perhaps_a_job(text: str) -> None:
    try:
        tenant, job = subject.parse_replay_subject(f"replay.t1.{text}")
    except Malformed:
        assert not text or "." in text
        return
    assert (tenant, job) == ("t1", JobId(text) if text in (JOB, OTHER) else None)


@pytest.mark.parametrize(
    "text", ["", "replay", "replay.t1", f"replay.T1.{JOB}", f"replay..{JOB}", f"replay.t1.{JOB}.x"]
)
def test_what_is_no_replays_subject_is_not_parsed(text: str) -> None:
    with pytest.raises(Malformed):
        subject.parse_replay_subject(text)


@pytest.mark.parametrize("reply", ["_INBOX.t1.a", "_INBOX.t1.Ab9_-$.b.c", "_R_.x", "_R_.Abc.d"])
def test_the_tenants_inboxes_and_other_accounts_may_be_answered(reply: str) -> None:
    assert subject.may_answer(reply, Tenant("t1"))
    assert subject.may_answer(reply, None)


STRANGE = [
    "", "_INBOX", "_INBOX.t1", "_INBOX.t1.", "_INBOX..a", "_INBOX.t1..a", "_INBOX.t1.*", "_INBOX.t1.>", "_R_", "_R_.",
    "_INBOX.t1.a b", "_INBOX.t1.a\r\n", "_inbox.t1.a", "x_INBOX.t1.a", f"ev.4.t1.{JOB}", "_INBOX.t1." + "a" * 256,
    f"work.default.normal.{JOB}", "_SVC.gateway.a.b", "$JS.API.STREAM.PURGE.EV_0", f"job.t1.{JOB}.event",
]  # fmt: skip


@pytest.mark.parametrize("reply", [*STRANGE, "_INBOX.t2.a", "_INBOX.t1x.a", "_INBOX.x.t1.a"])
def test_nobody_else_may_be_answered(reply: str) -> None:
    assert not subject.may_answer(reply, Tenant("t1"))
    assert subject.may_answer(reply, None) == (reply not in STRANGE)
