"""User values from the command line."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import msgspec

from perdure.core.instant import Instant, instant, moment
from perdure.errors import Fault, Invalid, Malformed


def read_value(text: str | None) -> Any:  # Any: user value
    """A user value from the command line: JSON, else the text itself; `@FILE` and `-` read it first. Raises Invalid."""
    if text is None:
        return None
    try:
        if text == "-":
            text = sys.stdin.read()
        elif text.startswith("@"):
            text = Path(text[1:]).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as exc:
        raise Invalid([Fault("unreadable", f"{text}: {exc}", parameter="--input")]) from exc
    try:
        return msgspec.json.decode(text)
    except msgspec.DecodeError:
        return text


def read_json(path: Path) -> Any:  # Any: user value
    """The JSON in a file. Raises Invalid."""
    try:
        return msgspec.json.decode(path.read_bytes())
    except OSError as exc:
        raise Invalid([Fault("unreadable", f"{path}: {exc.strerror}")]) from exc
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise Invalid([Fault("invalid-json", f"{path}: {exc}")]) from exc


def pairs(flag: str, given: Sequence[str] | None) -> dict[str, str]:
    """What a flag of `k=v` said. Raises Invalid."""
    found = {}
    for pair in given or ():
        key, is_there, value = pair.partition("=")
        if not key or not is_there:
            raise Invalid([Fault("malformed", "must be name=value", parameter=flag)])
        found[key] = value
    return found


def with_set(value: Any, given: Sequence[str] | None) -> Any:  # Any: user value
    """`value` with the members that `--set k=v` names; JSON where it is JSON. Raises Invalid."""
    if not given:
        return value
    if value is None:
        value = {}
    if not isinstance(value, dict):
        raise Invalid([Fault("wrong-type", "only an object has members to set", parameter="--set")])
    return value | {key: read_value(text) for key, text in pairs("--set", given).items()}


def instant_of(flag: str, text: str | None) -> Instant | None:
    """The instant that a flag names, as RFC 3339 with a zone. Raises Invalid."""
    if text is None:
        return None
    try:
        at = moment(Instant(text))
    except Malformed:
        at = None
    if at is None or at.tzinfo is None:
        raise Invalid([Fault("invalid-value", "must be RFC 3339 with a zone", parameter=flag)])
    return instant(at)
