"""What a key without the scope `values` is told: texts that the gateway withholds read `withheld` in our records.

Over HTTP users' values are `{withheld, size_bytes, digest}` then. Where a record holds any JSON it keeps that; where it
holds a text, the object would not fit, and the word stands in its place.
"""

from typing import Any, Final

import msgspec

WORD: Final = "withheld"
TEXTS: Final = frozenset({"title", "message", "comment", "detail", "text", "reason"})  # members that are texts


def readable(body: bytes) -> bytes:
    """`body`, JSON, with a text wherever a record has one. What nothing is withheld from comes back as it is."""
    if b'"withheld":true' not in body:
        return body
    return msgspec.json.encode(_read(msgspec.json.decode(body)))


def _read(value: Any) -> Any:  # Any: JSON
    if isinstance(value, list):
        return [_read(each) for each in value]
    if isinstance(value, dict):
        return {name: WORD if name in TEXTS and _is_withheld(each) else _read(each) for name, each in value.items()}
    return value


def _is_withheld(value: Any) -> bool:  # Any: JSON
    return isinstance(value, dict) and value.get(WORD) is True
