"""What a literal of a definition may be, by the kind its input port names."""

import re
from collections.abc import Mapping
from typing import Final, assert_never

from perdure.core import codec
from perdure.core.event import UserValue
from perdure.core.graph import template
from perdure.core.graph.catalogue import ACTION_ID, DEFAULT_ACTIONS, InputPort, action_ids
from perdure.core.graph.faults import Faults, pointer
from perdure.errors import Malformed, TooLarge

MAX_ACTIONS: Final = 12
MAX_POINTERS: Final = 100
RESERVED_PORTS: Final = ("payload", "comment", "timeout")  # the other outputs of an ask
_POINTER: Final = re.compile(r"(?:/(?:[^~/]|~[01])*)*")


def check(port: InputPort, value: UserValue, literals: Mapping[str, UserValue], at: str, faults: Faults) -> None:
    """Note in `faults` why `value` may not be the literal of `port`.

    `literals` are all those of the node, `at` is the pointer to this one.
    """
    match port.literal:
        case "text" | "template":
            _text(port, value, at, faults)
        case "number" | "integer":
            _number(port, value, at, faults)
        case "json":
            _json(value, at, faults)
        case "ask_kind":
            if not isinstance(value, str) or value not in DEFAULT_ACTIONS:
                faults.add(at, "invalid-value", f"must be one of {', '.join(DEFAULT_ACTIONS)}")
        case "actions":
            _actions(value, at, faults)
        case "pointers":
            _pointers(value, at, faults)
        case "on_timeout":
            _on_timeout(value, literals, at, faults)
        case _:
            assert_never(port.literal)


def _text(port: InputPort, value: UserValue, at: str, faults: Faults) -> None:
    if not isinstance(value, str):
        faults.add(at, "wrong-type", "must be a string")
    elif port.maximum is not None and len(value) > port.maximum:
        faults.add(at, "too-long", f"must have at most {port.maximum:.0f} characters")
    elif port.literal == "template":
        try:
            variables = template.names(template.parse(value))
        except Malformed as exc:
            faults.add(at, "invalid-template", str(exc))
            return
        if port.name in variables:
            faults.add(at, "reserved-name", f"a variable may not be called {port.name}")
    elif port.required and not value:
        faults.add(at, "too-short", "must not be empty")


def _number(port: InputPort, value: UserValue, at: str, faults: Faults) -> None:
    whole = port.literal == "integer"
    if not isinstance(value, int | float) or isinstance(value, bool) or (whole and not isinstance(value, int)):
        faults.add(at, "wrong-type", f"must be {'an integer' if whole else 'a number'}")
    elif not (port.minimum is None or value >= port.minimum) or not (port.maximum is None or value <= port.maximum):
        faults.add(at, "out-of-range", f"must lie between {port.minimum} and {port.maximum}")


def _json(value: UserValue, at: str, faults: Faults) -> None:
    try:
        codec.encode_value(value)
    except TooLarge:
        faults.add(at, "too-large", f"must take at most {codec.MAX_VALUE_BYTES} bytes as JSON")
    except Malformed:
        faults.add(at, "wrong-type", "must be JSON")


def _actions(value: UserValue, at: str, faults: Faults) -> None:
    if not isinstance(value, list) or not 1 <= len(value) <= MAX_ACTIONS:
        faults.add(at, "wrong-type", f"must be a list of 1 to {MAX_ACTIONS} actions")
        return
    seen: set[str] = set()
    for index, action in enumerate(value):
        here = f"{at}/{index}"
        if not isinstance(action, dict):
            faults.add(here, "wrong-type", "must be an object with an id")
            continue
        for member in action:
            if member not in ("id", "label", "style", "requires"):
                faults.add(here + pointer(str(member)), "unknown-member", "an action has id, label, style and requires")
        name = action.get("id")
        if not isinstance(name, str) or ACTION_ID.fullmatch(name) is None:
            faults.add(f"{here}/id", "invalid-id", f"must match {ACTION_ID.pattern}")
        elif name in RESERVED_PORTS:
            faults.add(f"{here}/id", "reserved-name", f"{', '.join(RESERVED_PORTS)} are other outputs of an ask")
        elif name in seen:
            faults.add(f"{here}/id", "duplicate", "another action has this id")
        else:
            seen.add(name)
        if "label" in action and not (isinstance(action["label"], str) and 1 <= len(action["label"]) <= 100):
            faults.add(f"{here}/label", "wrong-type", "must be a string of 1 to 100 characters")
        if "style" in action and action["style"] not in ("primary", "danger"):
            faults.add(f"{here}/style", "invalid-value", "must be primary or danger")
        if "requires" in action and not _strings(action["requires"], 20):
            faults.add(f"{here}/requires", "wrong-type", "must be a list of at most 20 names")


def _pointers(value: UserValue, at: str, faults: Faults) -> None:
    if not _strings(value, MAX_POINTERS):
        faults.add(at, "wrong-type", f"must be a list of at most {MAX_POINTERS} JSON Pointers")
        return
    for index, text in enumerate(value):
        if _POINTER.fullmatch(text) is None:
            faults.add(f"{at}/{index}", "invalid-value", 'must be a JSON Pointer such as /amount, or "" for the whole')


def _on_timeout(value: UserValue, literals: Mapping[str, UserValue], at: str, faults: Faults) -> None:
    if not isinstance(value, dict):
        faults.add(at, "wrong-type", "must be an object with do")
        return
    for member in value:
        if member not in ("do", "action", "payload"):
            faults.add(at + pointer(str(member)), "unknown-member", "on_timeout has do, action and payload")
    do = value.get("do")
    if do not in ("answer", "branch", "fail"):
        faults.add(f"{at}/do", "invalid-value", "must be answer, branch or fail")
    if do == "answer" and value.get("action") not in action_ids(literals):
        faults.add(f"{at}/action", "unknown-action", "must be the id of one of the node's actions")
    if do != "answer" and ("action" in value or "payload" in value):
        faults.add(at, "not-allowed", "action and payload belong to do: answer")
    if "payload" in value:
        _json(value["payload"], f"{at}/payload", faults)
    if "expires_in_seconds" not in literals:
        faults.add(at, "missing", "on_timeout needs expires_in_seconds")


def _strings(value: UserValue, most: int) -> bool:
    return isinstance(value, list) and len(value) <= most and all(isinstance(v, str) and len(v) <= 1000 for v in value)
