"""User values from the command line."""

import sys
from pathlib import Path
from typing import Any

import msgspec

from perdure.errors import Fault, Invalid


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
