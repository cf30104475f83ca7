"""The native stream, narrowed: by type, without deltas, without users' values. Filters never renumber.

Its options: `types` (see Types), `deltas` and `values` (`true`, `false`).
"""

from typing import Final

from msgspec.structs import replace

from perdure.core.event import TYPE_OF, AnyEvent, type_of
from perdure.core.stream import delta as deltas
from perdure.core.stream import withheld
from perdure.core.stream.adapter import Attach
from perdure.core.stream.delta import Said
from perdure.core.stream.frame import Frame
from perdure.core.stream.native import Native
from perdure.core.stream.offset import Offset
from perdure.errors import Fault, Invalid, Malformed
from perdure.ids import JobId

TYPES: Final = frozenset(TYPE_OF.values()) | deltas.KINDS
MOST_TYPES: Final = 50


class Types:
    """Which types a reader wants: names and families (`job.*`), separated by commas. Raises Malformed."""

    def __init__(self, text: str) -> None:
        self.names: set[str] = set()
        wanted = text.split(",")
        if len(wanted) > MOST_TYPES:
            raise Malformed(f"at most {MOST_TYPES} types")
        for name in wanted:
            family = name.removesuffix("*")
            found = {t for t in TYPES if t.startswith(family)} if name.endswith(".*") else {name} & TYPES
            if not found:
                raise Malformed("event types, exact or as family.*")
            self.names |= found

    def __contains__(self, name: str) -> bool:
        return name in self.names

    @property
    def deltas(self) -> bool:
        """Whether deltas are among them."""
        return bool(self.names & deltas.KINDS)


def opened(reader: Attach) -> Native:
    """The native adapter for `reader`, as its options narrow it. Raises Invalid (`invalid-parameter`)."""
    types, deltas, values = types_of(reader), flag(reader, "deltas"), flag(reader, "values") and reader.values
    return Filtered(reader.job, types=types, deltas=deltas, values=values)


def types_of(reader: Attach) -> Types | None:
    """The types that `reader` wants, None for all. Raises Invalid (`invalid-parameter`)."""
    if "types" not in reader.options:
        return None
    try:
        return Types(reader.options["types"])
    except Malformed as exc:
        raise Invalid([Fault("invalid", str(exc), parameter="types")], "invalid-parameter") from None


def flag(reader: Attach, name: str, *, default: bool = True) -> bool:
    """An option that is `true` or `false`. Raises Invalid (`invalid-parameter`)."""
    value = reader.options.get(name, "true" if default else "false")
    if value not in ("true", "false"):
        raise Invalid([Fault("invalid", "true or false", parameter=name)], "invalid-parameter")
    return value == "true"


class Filtered(Native):
    """The StreamAdapter of a narrowed native stream. `types`: all when None; `values`: whether users' values show."""

    def __init__(self, job: JobId, *, types: Types | None = None, deltas: bool = True, values: bool = True) -> None:
        super().__init__(job, deltas=deltas and (types is None or types.deltas))
        self._types, self._values = types, values

    def on_event(self, body: bytes, event: AnyEvent) -> tuple[Frame, ...]:
        if self._types is not None and type_of(event) not in self._types:
            return ()
        return super().on_event(body if self._values else withheld.event(body), event)

    def on_delta(self, said: Said, at: Offset | None) -> tuple[Frame, ...]:
        kind = said.delta.type
        if (self._types is not None and kind not in self._types) or (not self._values and kind in withheld.SILENT):
            return ()
        if not self._values:
            said = Said(replace(said.delta, text=""), withheld.delta(said.body))
        return super().on_delta(said, at)
