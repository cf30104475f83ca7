"""Sealed values: they open for whom and for what they were sealed, and for nothing else."""

import pytest
from msgspec import json, to_builtins

from perdure.errors import Malformed, Unavailable
from perdure.ids import Tenant
from perdure.seal import MasterKeys, new_master_key

ONE, TWO = new_master_key("one"), new_master_key("two")
MAIN, OTHER = Tenant("main"), Tenant("other")


def test_what_is_sealed_opens_again_after_it_was_json() -> None:
    keys = MasterKeys(ONE)
    sealed = json.decode(json.encode(keys.seal(MAIN, "p", b"secret")))
    assert keys.open(MAIN, "p", sealed) == b"secret"
    assert "secret" not in str(sealed)
    assert keys.seal(MAIN, "p", b"secret") != keys.seal(MAIN, "p", b"secret")


@pytest.mark.parametrize(("tenant", "purpose"), [(OTHER, "p"), (MAIN, "q")])
def test_it_opens_for_nobody_else_and_for_nothing_else(tenant: Tenant, purpose: str) -> None:
    keys = MasterKeys(ONE)
    sealed = keys.seal(MAIN, "p", b"secret")
    with pytest.raises(Malformed):
        keys.open(tenant, purpose, sealed)


def test_a_changed_value_does_not_open() -> None:
    keys = MasterKeys(ONE)
    sealed = to_builtins(keys.seal(MAIN, "p", b"secret"))
    flipped = ("A" if sealed["sealed"][0] != "A" else "B") + sealed["sealed"][1:]
    for changed in (sealed | {"sealed": flipped}, sealed | {"v": 2}, sealed | {"nonce": "!"}, {"v": 1}, "x"):
        with pytest.raises(Malformed):
            keys.open(MAIN, "p", changed)


def test_a_new_key_in_front_seals_and_the_old_one_still_opens() -> None:
    old = MasterKeys(ONE).seal(MAIN, "p", b"old")
    both = MasterKeys(f"{TWO},{ONE}")
    assert both.open(MAIN, "p", old) == b"old"
    assert both.seal(MAIN, "p", b"new").key == "two"


def test_without_its_key_it_is_a_named_state() -> None:
    sealed = MasterKeys(ONE).seal(MAIN, "p", b"secret")
    for keys in (MasterKeys(TWO), MasterKeys()):
        with pytest.raises(Unavailable):
            keys.open(MAIN, "p", sealed)
    with pytest.raises(Unavailable):
        MasterKeys().seal(MAIN, "p", b"secret")
    assert not MasterKeys().able


@pytest.mark.parametrize(
    "text", ["x", "one:short", f"{ONE},{ONE}", f"{ONE} {TWO}"], ids=["none", "short", "twice", "no comma"]
)
def test_what_is_no_key_is_refused_and_never_shown(text: str) -> None:
    with pytest.raises(ValueError, match=r"name:base64|one name") as caught:
        MasterKeys(text)
    assert text not in str(caught.value)
    assert ONE.split(":")[1] not in repr(MasterKeys(ONE))
