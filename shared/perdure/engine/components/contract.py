"""What a component is: its declaration, the type of its inputs, and an async function that a step runs."""

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from perdure.core.event import UserValue
from perdure.core.graph.ports import ComponentSpec
from perdure.errors import Terminal


class ComponentContext(Protocol):
    """What a component's function may use of the step that runs it."""

    def delta(self, text: str, channel: str = "m-1") -> None:
        """Show followers a piece of text at once. May be lost; the step's result is what counts."""

    def log(self, text: str, level: str = "info", **fields: Any) -> None:  # any JSON
        """Show followers a line."""

    @property
    def idempotency_key(self) -> str:
        """The same in every try of this step: for effects that must not be repeated."""

    @property
    def cancelled(self) -> bool:
        """Whether nobody waits for this step any more: what runs long in a thread looks here."""


Run = Callable[[ComponentContext, Any], Any]
"""Takes the context and an instance of the component's `inputs` type; returns the node's value, or a `Result` with it,
as an awaitable unless the component is `threaded`.

Any: each component has its own type of inputs. A component with one output port returns that port's value, one with
none the value of the output that it is, one with several a dict of its live ports.
"""


class Component(Struct, frozen=True, kw_only=True):
    """A component that runs. `inputs` is a Struct, or dict where the inputs depend on the node.

    `timeout_seconds` holds for nodes that name none. `threaded`: `run` is a plain function, called in a thread.
    `wrapped` is the user's function: a component of users is called like it.
    """

    spec: ComponentSpec
    inputs: type
    run: Run
    timeout_seconds: float = 60.0
    threaded: bool = False
    wrapped: Callable[..., Any] | None = None

    def __call__(self, *args: Any, **kwargs: Any) -> Any:  # as the user's function has it
        """Call the user's function, for tests and for other code. Raises TypeError for a built-in component."""
        if self.wrapped is None:
            raise TypeError(f"{self.spec.name} is a component of graphs, not a function")
        return self.wrapped(*args, **kwargs)

    def catalogue_entry(self) -> dict[str, Any]:  # JSON
        """The declaration as plain data, for whoever checks definitions elsewhere (`catalogue.from_entries`)."""
        entry: dict[str, Any] = msgspec.to_builtins(self.spec)
        return entry


Components = Mapping[str, Component]


def typed(component: str, kind: type, values: Mapping[str, UserValue]) -> Any:  # Any: an instance of `kind`
    """`values` as `kind`. Raises Terminal, without a value in it, when an edge brought another type."""
    try:
        return msgspec.convert(values, kind, str_keys=True, dec_hook=_model)
    except msgspec.ValidationError as exc:
        raise Terminal(f"{component} cannot take its inputs: {exc}", code="invalid_input") from exc


def _model(kind: type, value: Any) -> Any:  # any JSON in, a model of users out
    """Models that validate themselves (pydantic's). Their errors repeat what they refuse: only their name is told."""
    validate = getattr(kind, "model_validate", None)
    if validate is None:
        raise NotImplementedError(f"values of {kind.__name__} cannot come from JSON")
    try:
        return validate(value)
    except ValueError:
        raise ValueError(f"no {kind.__name__}") from None
