"""Values of components as JSON and back, where they come back equal; what does not is not kept.

Most are lfx's own serialisation. Tables are ours: lfx drops them.
"""

import json
from typing import Any, Final

import pandas
from lfx.graph.checkpoint.schema import deserialize_value, serialize_value, wire_has_opaque_drop
from lfx.schema.dataframe import DataFrame

_MARK: Final = "__perdure__"
_PLAIN: Final = (str, int, float, bool, list, dict, type(None))


def encode(value: Any) -> dict[str, Any] | None:
    """`value` as JSON, or None when it cannot be kept (tools, models, clients, streams)."""
    if isinstance(value, DataFrame):
        return _table(value)
    wire: dict[str, Any] = serialize_value(value)
    return None if wire_has_opaque_drop(wire) else wire


def decode(wire: dict[str, Any]) -> Any:
    """The value that `encode` wrote down."""
    if wire.get(_MARK) != "table":
        return deserialize_value(wire)
    frame = pandas.DataFrame(**wire["split"])
    for place, kind in enumerate(wire["dtypes"]):
        frame.isetitem(place, frame.iloc[:, place].astype(kind))
    return DataFrame(frame, text_key=wire["text_key"], default_value=wire["default_value"])


def _table(frame: Any) -> dict[str, Any] | None:
    """A table with its column types; None when it would not come back the same (bytes, arrays, objects in cells)."""
    mixed = [frame.iloc[:, place] for place, kind in enumerate(frame.dtypes) if str(kind) == "object"]
    if not all(isinstance(cell, _PLAIN) for column in mixed for cell in column):
        return None
    try:
        text = _split(frame)
        wire = {
            _MARK: "table",
            "split": json.loads(text),
            "dtypes": [str(kind) for kind in frame.dtypes],
            "text_key": frame.text_key,
            "default_value": frame.default_value,
        }
        back = decode(wire)
        same = _split(back) == text and list(back.dtypes) == list(frame.dtypes)
    except (TypeError, ValueError, OverflowError):  # pandas: what it cannot write, or not read back
        return None
    return wire if same else None


def _split(frame: Any) -> str:
    def refuse(value: Any) -> None:
        raise TypeError(type(value))

    text: str = frame.to_json(
        orient="split", date_format="iso", date_unit="ns", double_precision=15, default_handler=refuse
    )
    return text
