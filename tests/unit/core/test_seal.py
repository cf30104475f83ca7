"""Seals: a chain over records holds as long as nothing was changed, and no change to any of them goes unseen."""

from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from perdure.core.instant import Instant
from perdure.core.seal import Entry, Seal, decoded, faults, sealed
from perdure.errors import Malformed, UnsupportedVersion
from perdure.ids import Tenant

GOLDEN = Path(__file__).parents[2] / "golden" / "bus" / "seal-1.json"
MAIN = Tenant("main")
AT = Instant("2026-01-01T00:00:00.000Z")

batches = st.lists(st.lists(st.tuples(st.integers(1, 3), st.binary(max_size=4)), min_size=1, max_size=4), min_size=1)
Chain = list[tuple[Seal, list[Entry]]]


def chain(steps: Sequence[Sequence[tuple[int, bytes]]]) -> Chain:
    """Seals over batches of records, which lie so far apart in the stream."""
    found, before, seq = Chain(), None, 0
    for some in steps:
        entries = list[Entry]()
        for gap, body in some:
            seq += gap
            entries.append((seq, body))
        before = sealed(MAIN, before, entries, AT)
        found.append((before, entries))
        seq += 1  # the seal itself
    return found


def judged(found: Chain, first: int = 1) -> list[str]:
    """What is wrong with a chain of which these are there."""
    wrong, before = list[str](), None
    for seal, entries in found:
        wrong += faults(before, seal, entries, first)
        before = seal
    return wrong


def covered(seals: Sequence[Seal], entries: Sequence[Entry]) -> Chain:
    """As a reader meets them: to each seal the records up to its end that none before it took."""
    left, found = list(entries), Chain()
    for seal in seals:
        found.append((seal, [entry for entry in left if entry[0] <= seal.upto]))
        left = [entry for entry in left if entry[0] > seal.upto]
    return found


@given(batches)
def test_what_nobody_touched_is_intact(steps: list[list[tuple[int, bytes]]]) -> None:
    made = chain(steps)
    assert judged(made) == []
    assert [seal.number for seal, _ in made] == list(range(1, len(made) + 1))


@given(batches, st.data())
def test_no_change_of_a_record_goes_unseen(steps: list[list[tuple[int, bytes]]], data: st.DataObject) -> None:
    made = chain(steps)
    seals, entries = [seal for seal, _ in made], [entry for _, some in made for entry in some]
    at = data.draw(st.integers(0, len(entries) - 1))
    seq, body = entries[at]
    how = data.draw(st.sampled_from(["changed", "dropped", "slipped in", "swapped"]))
    match how:
        case "changed":
            entries[at] = (seq, body + b"x")
        case "dropped":
            del entries[at]
        case "slipped in":
            entries.insert(at, (seq, b"another"))
        case "swapped":
            if at == 0 or entries[at - 1][1] == body:
                return
            (other, theirs), entries[at - 1] = entries[at - 1], (entries[at - 1][0], body)
            entries[at] = (seq, theirs)
            assert other < seq
        case _:
            raise AssertionError(how)
    assert judged(covered(seals, entries)) != []


@given(batches.filter(lambda steps: len(steps) > 1), st.data())
def test_no_change_of_a_seal_goes_unseen(steps: list[list[tuple[int, bytes]]], data: st.DataObject) -> None:
    made = chain(steps)
    entries = [entry for _, some in made for entry in some]
    seals = [seal for seal, _ in made]
    at = data.draw(st.integers(0, len(seals) - 2))  # the last can be made anew: whoever kept its digest sees that
    how = data.draw(st.sampled_from(["dropped", "digest", "made anew", "number"]))
    match how:
        case "dropped":
            del seals[at]
        case "digest":
            seals[at] = replace(seals[at], digest="0" * 64)
        case "made anew":  # with one of its records changed
            changed = [(seq, body + b"x") for seq, body in made[at][1]]
            seals[at] = sealed(MAIN, seals[at - 1] if at else None, changed, AT)
            entries = [entry for seal, some in made for entry in (changed if seal is made[at][0] else some)]
        case "number":
            seals[at] = replace(seals[at], number=seals[at].number + 1)
        case _:
            raise AssertionError(how)
    assert judged(covered(seals, entries)) != []


@given(batches, st.data())
def test_what_has_gone_by_age_is_no_finding(steps: list[list[tuple[int, bytes]]], data: st.DataObject) -> None:
    made = chain(steps)
    end = made[-1][0].upto + 1
    first = data.draw(st.integers(1, end))
    left = [(seal, [e for e in some if e[0] >= first]) for seal, some in made if seal.upto + 1 >= first]
    assert judged(left, first) == []


def test_seals_that_are_gone_although_nothing_is_that_old_are_missed() -> None:
    made = chain([[(1, b"a")], [(1, b"b")], [(1, b"c")]])
    assert judged(made[1:], first=1) == ["seal 2: the seals before it are gone, and not by age"]
    assert judged(made[1:], first=made[1][1][0][0]) == []


def test_no_byte_moves_from_one_record_to_the_next() -> None:
    one, other = (sealed(MAIN, None, [(1, a), (2, b)], AT).digest for a, b in ((b"ab", b"c"), (b"a", b"bc")))
    assert one != other
    assert sealed(Tenant("other"), None, [(1, b"ab"), (2, b"c")], AT).digest != one


def test_a_seal_is_written_as_the_golden_file_has_it() -> None:
    seal = sealed(MAIN, chain([[(1, b"a")]])[0][0], [(3, b"b"), (4, b"c")], AT)
    assert msgspec.json.encode(seal) + b"\n" == GOLDEN.read_bytes()
    assert decoded(GOLDEN.read_bytes()) == seal


def test_what_is_no_seal_is_said_to_be_none() -> None:
    with pytest.raises(Malformed):
        decoded(b'{"v":1}')
    with pytest.raises(UnsupportedVersion):
        decoded(GOLDEN.read_bytes().replace(b'"v":1', b'"v":2'))
