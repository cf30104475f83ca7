"""A row as the record that it is: columns that hold JSON text are decoded on the way."""

from collections.abc import Collection
from typing import Any, TypeVar, overload

import msgspec
from sqlalchemy import Row

Record = TypeVar("Record", bound=msgspec.Struct)


def record(found: Row[Any], kind: type[Record], json: Collection[str] = ()) -> Record:
    """The row `found` as a `kind`, whose members are named like the columns; `json` names those that hold JSON."""
    values = {str(name): value for name, value in found._mapping.items()}  # the names are a subclass of str
    for name in json:
        if values[name] is not None:
            values[name] = msgspec.json.decode(values[name])
    return msgspec.convert(values, kind)


@overload
def storable(text: str) -> str: ...
@overload
def storable(text: None) -> None: ...
def storable(text: str | None) -> str | None:
    """`text` as both databases take it: Postgres refuses U+0000, and one such title must not stop a projection."""
    return None if text is None else text.replace("\0", "\ufffd")
