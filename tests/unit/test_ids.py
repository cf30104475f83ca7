"""Ids: what they may look like, and the derived ones frozen for ever (a change would give an old key a second job)."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure import ids
from perdure.errors import Malformed
from perdure.ids import JobId, Principal, Tenant

JOB = JobId("01990000-0000-7000-8000-000000000001")


def test_derived_ids_are_frozen() -> None:
    assert str(ids.NAMESPACE) == "5b0f8a52-6a1c-5d6e-9d0b-7c6f0c8c2a11"
    assert ids.job_id_of_key(Tenant("main"), Principal("user:ann"), "order-1") == "d2ae6a2b-564b-55ba-9ca7-18047c4daa4e"
    assert ids.job_id_of_key(Tenant("main"), Principal("user:ann"), 'a"b\\é') == "b5cdbabc-4e51-5762-9a51-70faff8a1b00"
    assert ids.derived("child", JOB, "", "sub", "1") == "5301444d-cfd3-5f65-b50a-262f597e9c66"
    run = ids.run_job_id(Tenant("main"), Principal("user:ann"), "f1", "thread-1", "run-1")
    assert run == "69e752f0-d17d-5c22-b99e-d2aa0d3b6387"
    assert ids.effect_key(JOB, "/1.2", "pay", 1) == "1edf4870-5234-5c45-aecf-2597b17e119e"


@given(st.lists(st.text(), min_size=1, max_size=4), st.lists(st.text(), min_size=1, max_size=4))
def test_different_parts_derive_different_ids(one: list[str], other: list[str]) -> None:
    assert (ids.derived(*one) == ids.derived(*other)) == (one == other)


def test_effect_keys_differ_by_path_name_and_occurrence() -> None:
    keys = {
        ids.effect_key(JOB, "", "pay", 1),
        ids.effect_key(JOB, "", "pay", 2),
        ids.effect_key(JOB, "", "paid", 1),
        ids.effect_key(JOB, "/1.1", "pay", 1),
    }
    assert len(keys) == 4


def test_minted_ids_are_canonical_and_differ() -> None:
    minted = {ids.new_job_id(), ids.new_event_id(), ids.new_flow_id(), ids.new_runner_id(), ids.new_ring()}
    assert len(minted) == 5
    assert all(ids.is_uuid(i) for i in minted)


def test_a_request_id_names_its_job_and_the_event_that_asked() -> None:
    assert ids.request_id(JOB, 17) == f"{JOB}_17"
    assert ids.parse_request_id(f"{JOB}_17") == (JOB, 17)


@pytest.mark.parametrize(
    "text",
    [
        "",
        JOB,
        f"{JOB}_",
        f"{JOB}_0",
        f"{JOB}_-1",
        f"{JOB}_01",
        f"{JOB}_1 ",
        f" {JOB}_1",
        f"{JOB}_1\n",
        f"{JOB}_x",
        f"{JOB}_\u0661",
        f"{JOB}_12345678901",
        f"{'A' + JOB[1:]}_1",
    ],
)
def test_what_is_no_request_id_is_refused(text: str) -> None:
    with pytest.raises(Malformed):
        ids.parse_request_id(text)


@pytest.mark.parametrize("text", ["main", "a", "0", "a-b_c", "a" * 32])
def test_tokens(text: str) -> None:
    assert ids.is_token(text)


@pytest.mark.parametrize(
    "text", ["", "A", "-a", "_a", "a.b", "a b", "*", ">", "a\n", "é", "a" * 33, "a\x00", "a/b", "\u0661"]
)
def test_what_is_no_token(text: str) -> None:
    assert not ids.is_token(text)


@pytest.mark.parametrize("text", ["", JOB.replace("-", ""), f"{{{JOB}}}", f"urn:uuid:{JOB}", JOB + "\n", "A" + JOB[1:]])
def test_what_is_no_canonical_uuid(text: str) -> None:
    assert not ids.is_uuid(text)
