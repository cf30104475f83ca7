"""What a literal of a definition may be, by the kind its input port names."""

import re
from collections.abc import Mapping
from typing import Final, assert_never

from perdure.core import asked, codec, schema
from perdure.core.event import UserValue
from perdure.core.graph import condition, template
from perdure.core.graph.faults import Faults, pointer
from perdure.core.graph.nested import REFERENCE
from perdure.core.graph.ports import DEFAULT_ACTIONS, RESERVED_PORTS, InputPort
from perdure.core.instant import Instant, moment
from perdure.errors import Invalid, Malformed, TooLarge

MAX_HEADERS: Final = 50
OWN_HEADERS: Final = frozenset(
    {
        "host", "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "proxy-connection", "te",
        "trailer", "transfer-encoding", "upgrade", "content-length", "expect", "accept-encoding",
    }
)  # fmt: skip  # of the hop, or of the client itself: no flow sets them
_HEADER: Final = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]{1,128}", re.ASCII)
_FIELD: Final = re.compile(r"[\t\x20-\x7e\x80-\xff]{0,8000}")
_STATUS: Final = re.compile(r"[1-5](?:[0-9]{2}|xx)", re.ASCII)


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
            asked.actions(value, RESERVED_PORTS, at, faults)
        case "pointers":
            asked.pointers(value, at, faults)
        case "schema":
            _schema(value, at, faults)
        case "assignees":
            asked.assignees(value, at, faults)
        case "quorum":
            asked.quorum(value, literals, at, faults)
        case "reminders":
            asked.reminders(value, at, faults)
        case "escalations":
            asked.escalations(value, at, faults)
        case "form":
            _form(value, at, faults)
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
        asked.port_id(case.get("id"), ("default",), seen, f"{here}/id", faults)
        if "when" in case:
            condition.check(case["when"], f"{here}/when", faults)
        else:
            faults.add(f"{here}/when", "missing", "a case names its condition")


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


def _form(value: UserValue, at: str, faults: Faults) -> None:
    """Hints for whoever draws the form."""
    if not isinstance(value, dict):
        faults.add(at, "wrong-type", "must be an object")
    else:
        _json(value, at, faults)


def _schema(value: UserValue, at: str, faults: Faults) -> None:
    if not isinstance(value, dict):
        faults.add(at, "wrong-type", "must be an object: a JSON Schema")
        return
    try:
        schema.check_asked(value, at)
    except Invalid as exc:
        for fault in exc.faults:
            faults.add(fault.pointer or at, fault.code, fault.detail)


def _on_timeout(value: UserValue, literals: Mapping[str, UserValue], at: str, faults: Faults) -> None:
    asked.on_timeout(value, literals, at, faults)
    if isinstance(value, dict) and "payload" in value:
        _json(value["payload"], f"{at}/payload", faults)
