"""What a literal of a definition may be, by the kind its input port names."""

import re
from collections.abc import Mapping
from typing import Final, assert_never

from perdure.core import codec, schema
from perdure.core.event import UserValue
from perdure.core.graph import condition, template
from perdure.core.graph.faults import Faults, pointer
from perdure.core.graph.nested import REFERENCE
from perdure.core.graph.ports import ACTION_ID, DEFAULT_ACTIONS, InputPort, action_ids
from perdure.core.instant import Instant, moment
from perdure.errors import Invalid, Malformed, TooLarge

MAX_ACTIONS: Final = 12
MAX_POINTERS: Final = 100
MAX_HEADERS: Final = 50
MAX_ASSIGNEES: Final = 100
MAX_SCHEMA_BYTES: Final = 64 * 1024
MAX_SCHEMA_DEPTH: Final = 16
RESERVED_PORTS: Final = ("payload", "comment", "timeout")  # the other outputs of an ask
OWN_HEADERS: Final = frozenset(
    {
        "host", "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
        "trailer", "transfer-encoding", "upgrade", "content-length", "expect", "accept-encoding",
    }
)  # fmt: skip  # of the hop, or of the client itself: no flow sets them
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", re.ASCII)
_FIELD: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,8000}")
_STATUS: Final = re.compile(r"[1-5](?:[0-9]{2}|xx)", re.ASCII)
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
        case "boolean":
            if not isinstance(value, bool):
                faults.add(at, "wrong-type", "must be true or false")
        case "json":
            _json(value, at, faults)
        case "choice":
            if value not in port.choices:
                faults.add(at, "invalid-value", f"must be one of {', '.join(port.choices)}")
        case "instant":
            _instant(value, at, faults)
        case "flow":
            if not isinstance(value, str) or REFERENCE.fullmatch(value) is None:
                faults.add(at, "invalid-value", "must be a flow's name, name@version or name@digest")
        case "component":
            if not isinstance(value, str):
                faults.add(at, "wrong-type", "must name a component")
        case "cases":
            _cases(value, at, faults)
        case "headers":
            _headers(value, at, faults)
        case "statuses":
            _statuses(value, at, faults)
        case "ask_kind":
            if not isinstance(value, str) or value not in DEFAULT_ACTIONS:
                faults.add(at, "invalid-value", f"must be one of {', '.join(DEFAULT_ACTIONS)}")
        case "actions":
            _actions(value, at, faults)
        case "pointers":
            _pointers(value, at, faults)
        case "schema":
            _schema(value, at, faults)
        case "assignees":
            _assignees(value, at, faults)
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
        codec.encode_value(value, codec.INLINE_VALUE_BYTES)
    except TooLarge:
        faults.add(at, "too-large", f"must take at most {codec.INLINE_VALUE_BYTES} bytes as JSON")
    except Malformed:
        faults.add(at, "wrong-type", "must be JSON")


def _instant(value: UserValue, at: str, faults: Faults) -> None:
    try:
        aware = isinstance(value, str) and moment(Instant(value)).tzinfo is not None
    except Malformed:
        aware = False
    if not aware:
        faults.add(at, "invalid-value", "must be an instant with its offset, such as 2026-05-01T09:00:00Z")


def _cases(value: UserValue, at: str, faults: Faults) -> None:
    if not isinstance(value, list) or not 1 <= len(value) <= condition.MAX_CASES:
        faults.add(at, "wrong-type", f"must be a list of 1 to {condition.MAX_CASES} cases")
        return
    seen: set[str] = set()
    for index, case in enumerate(value):
        here = f"{at}/{index}"
        if not isinstance(case, dict):
            faults.add(here, "wrong-type", "must be an object with id and when")
            continue
        for member in case:
            if member not in ("id", "when"):
                faults.add(here + pointer(str(member)), "unknown-member", "a case has id and when")
        _port_id(case.get("id"), ("default",), seen, f"{here}/id", faults)
        if "when" in case:
            condition.check(case["when"], f"{here}/when", faults)
        else:
            faults.add(f"{here}/when", "missing", "a case names its condition")


def _port_id(name: UserValue, reserved: tuple[str, ...], seen: set[str], at: str, faults: Faults) -> None:
    """The id of an action or a case: it names a port."""
    if not isinstance(name, str) or ACTION_ID.fullmatch(name) is None:
        faults.add(at, "invalid-id", f"must match {ACTION_ID.pattern}")
    elif name in reserved:
        faults.add(at, "reserved-name", f"other outputs are called {', '.join(reserved)}")
    elif name in seen:
        faults.add(at, "duplicate", "another one has this id")
    else:
        seen.add(name)


def _headers(value: UserValue, at: str, faults: Faults) -> None:
    if not isinstance(value, dict) or len(value) > MAX_HEADERS:
        faults.add(at, "wrong-type", f"must be an object of at most {MAX_HEADERS} headers")
        return
    for name, text in value.items():
        here = at + pointer(name)
        if (why := refused_header(name, text)) is not None:
            faults.add(here, "invalid-value", why)


def refused_header(name: str, value: UserValue) -> str | None:
    """Why a flow may not send this header; None when it may."""
    if _HEADER.fullmatch(name) is None:
        return "no name of a header"
    if name.lower() in OWN_HEADERS:
        return "this header is the client's own"
    if not isinstance(value, str) or _FIELD.fullmatch(value) is None:
        return "must be a string of one line, Latin-1, at most 8000 characters"
    return None


def _statuses(value: UserValue, at: str, faults: Faults) -> None:
    if not isinstance(value, list) or not 1 <= len(value) <= 50:
        faults.add(at, "wrong-type", "must be a list of statuses")
        return
    for index, status in enumerate(value):
        if isinstance(status, bool) or not isinstance(status, int | str) or _STATUS.fullmatch(str(status)) is None:
            faults.add(f"{at}/{index}", "invalid-value", "must be a status such as 404, or a class such as 4xx")


def _schema(value: UserValue, at: str, faults: Faults) -> None:
    if not isinstance(value, dict):
        faults.add(at, "wrong-type", "must be an object: a JSON Schema")
        return
    if len(codec.canonical(value)) > MAX_SCHEMA_BYTES or _depth(value) > MAX_SCHEMA_DEPTH:
        faults.add(
            at, "too-large", f"must take at most {MAX_SCHEMA_BYTES} bytes and be at most {MAX_SCHEMA_DEPTH} deep"
        )
        return
    try:
        schema.check_schema(value, at)
    except Invalid as exc:
        for fault in exc.faults:
            faults.add(fault.pointer or at, fault.code, fault.detail)
    if _secret(value):
        faults.add(at, "not-allowed", "secrets do not travel through requests: no password, no writeOnly")


def _depth(value: UserValue) -> int:
    """How deep lists and objects lie in each other."""
    inner = value.values() if isinstance(value, dict) else value if isinstance(value, list) else None
    return 0 if inner is None else 1 + max(map(_depth, inner), default=0)


def _secret(value: UserValue) -> bool:
    """Whether a schema asks for a secret anywhere."""
    if isinstance(value, list):
        return any(map(_secret, value))
    if not isinstance(value, dict):
        return False
    return value.get("format") == "password" or value.get("writeOnly") is True or any(map(_secret, value.values()))


def _assignees(value: UserValue, at: str, faults: Faults) -> None:
    if not isinstance(value, dict):
        faults.add(at, "wrong-type", "must be an object of users, groups and anyone_with")
        return
    for member, given in value.items():
        here = at + pointer(member)
        if member in ("users", "groups"):
            if not _strings(given, MAX_ASSIGNEES):
                faults.add(here, "wrong-type", f"must be a list of at most {MAX_ASSIGNEES} names")
        elif member == "anyone_with":
            if given not in ("execute", "answer"):
                faults.add(here, "invalid-value", "must be execute or answer")
        else:
            faults.add(here, "unknown-member", "assignees are users, groups and anyone_with")


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
        _port_id(action.get("id"), RESERVED_PORTS, seen, f"{here}/id", faults)
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
