"""The protocols in which a job's stream is shown, by name. A new one is a StreamAdapter and a line here."""

from collections.abc import Callable, Mapping
from typing import Final

from perdure.core.stream import agui, langflow, langflow_agui
from perdure.core.stream import filter as native
from perdure.core.stream.adapter import Attach, StreamAdapter
from perdure.errors import NotFound

ADAPTERS: Final[Mapping[str, Callable[[Attach], StreamAdapter]]] = {
    "agui": agui.opened,
    "langflow": langflow.opened,
    "langflow-agui": langflow_agui.opened,
    "native": native.opened,
}


def adapter(name: str, reader: Attach) -> StreamAdapter:
    """A new adapter of the protocol `name` for `reader`.

    Raises NotFound for a protocol that there is not, Invalid (`invalid-parameter`) for an option that does not fit.
    """
    if name not in ADAPTERS:
        raise NotFound(f"no such protocol: {', '.join(sorted(ADAPTERS))}")
    return ADAPTERS[name](reader)
