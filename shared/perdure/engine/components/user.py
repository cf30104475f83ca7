"""Components of users: a typed function becomes a node of graphs, with a port for each parameter.

    @component
    def shorten(text: str, limit: int = 100) -> str: ...

    @component(outputs={"good": str, "bad": str})
    async def sort(context: ComponentContext, text: str) -> dict[str, str]: ...   # the ports it gives are live

A parameter without a default is required. `str` is a text port, everything else a data port; values are converted to
the annotation when the step runs (plain types, dataclasses, msgspec's and pydantic's). A plain `def` runs in a thread.
A first parameter called `context` gets the step's context. Whatever the function raises fails the step as any step.
"""

import functools
import importlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Final, get_type_hints, overload

import msgspec
from msgspec import NODEFAULT, Struct, defstruct

from perdure.core.codec import encode_value
from perdure.core.event import UserValue
from perdure.core.graph.catalogue import BUILTIN, extended
from perdure.core.graph.ports import ComponentSpec, InputPort, LiteralKind, OutputPort, PortType
from perdure.engine.components.contract import Component, ComponentContext, Run
from perdure.engine.result import Result
from perdure.engine.steps import is_async
from perdure.errors import Malformed

Function = Callable[..., Any]  # what it takes and returns is the author's

TIMEOUT_SECONDS: Final = 300.0
MAX_DESCRIPTION: Final = 2000
CONTEXT: Final = "context"
_LITERAL: Final[Mapping[Any, LiteralKind]] = {str: "text", int: "integer", float: "number", bool: "boolean"}


@overload
def component(fn: Function, /) -> Component: ...


@overload
def component(
    *,
    name: str | None = None,
    outputs: Mapping[str, type] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Callable[[Function], Component]: ...


def component(
    fn: Function | None = None,
    /,
    *,
    name: str | None = None,
    outputs: Mapping[str, type] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Component | Callable[[Function], Component]:
    """Make a function a component; its name is the function's unless one is given.

    `outputs` names several ports: the function then returns a dict, and the ports in it are live. Without it there is
    one port, `text` for a function that returns `str`, else `data`; none for one that returns None. `timeout_seconds`
    holds for nodes that name none. Raises Malformed for a function that makes no component, saying why.
    """

    def made(fn: Function) -> Component:
        return from_function(fn, name=name, outputs=outputs, timeout_seconds=timeout_seconds)

    return made if fn is None else made(fn)


def from_function(
    fn: Function,
    *,
    name: str | None = None,
    outputs: Mapping[str, type] | None = None,
    timeout_seconds: float = TIMEOUT_SECONDS,
) -> Component:
    """What `@component` does. Raises Malformed."""
    called = name or str(getattr(fn, "__name__", ""))
    parameters, hints = _parameters(fn, called)
    ports = tuple(_input(p, hints.get(p.name, Any), called) for p in parameters if p.name != CONTEXT)
    outs = _outputs(hints.get("return", Any), outputs)
    spec = ComponentSpec(
        name=called,
        inputs=ports,
        outputs=outs,
        output_kind="text" if all(port.type == "text" for port in outs) and outputs is None else "data",
        description=(inspect.getdoc(fn) or "")[:MAX_DESCRIPTION],
    )
    extended([spec])  # refuses what no catalogue takes
    fields = [
        (p.name, hints.get(p.name, Any), NODEFAULT if p.default is p.empty else msgspec.field(default_factory=_copy(p)))
        for p in parameters
        if p.name != CONTEXT
    ]
    inputs = defstruct(f"{called}_inputs", fields, kw_only=True, frozen=True)
    asynchronous = is_async(fn)
    return Component(
        spec=spec,
        inputs=inputs,
        run=_run(fn, parameters, called, None if outputs is None else frozenset(outputs), asynchronous),
        timeout_seconds=timeout_seconds,
        threaded=not asynchronous,
        wrapped=fn,
    )


def load(module: str) -> dict[str, Component]:
    """The components that the module `module` (dotted) defines or imports, by name.

    Raises what the import raises; Malformed when two different components bear one name.
    """
    found: dict[str, Component] = {}
    for value in vars(importlib.import_module(module)).values():
        if isinstance(value, Component) and found.setdefault(value.spec.name, value) is not value:
            raise Malformed(f"two components of {module} are called {value.spec.name}")
    return {name: each for name, each in found.items() if BUILTIN.get(name) is not each.spec}


def _parameters(fn: Function, called: str) -> tuple[list[inspect.Parameter], dict[str, Any]]:
    if not callable(fn):
        raise Malformed(f"component {called}: a component is a function")
    plain = fn
    while isinstance(plain, functools.partial):
        plain = plain.func
    try:
        hints = get_type_hints(plain)
    except (NameError, TypeError) as exc:
        raise Malformed(f"component {called}: its annotations cannot be read ({exc})") from exc
    parameters = list(inspect.signature(fn).parameters.values())
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise Malformed(f"component {called}: parameter {parameter.name} is no port: give each input its own name")
    return parameters, hints


def _input(parameter: inspect.Parameter, kind: Any, called: str) -> InputPort:  # Any: a type form
    if parameter.default is not parameter.empty:
        try:
            encode_value(parameter.default)
        except Malformed as exc:
            raise Malformed(f"component {called}: the default of {parameter.name} is no JSON") from exc
    bare = _bare(kind)
    port: PortType = "text" if bare is str else ("any" if bare in (Any, object) else "data")
    literal = _LITERAL.get(kind, "json")  # a type that also takes null has no narrower literal
    return InputPort(name=parameter.name, type=port, literal=literal, required=parameter.default is parameter.empty)


def _outputs(returns: Any, given: Mapping[str, type] | None) -> tuple[OutputPort, ...]:  # Any: a type form
    if given is not None:
        return tuple(OutputPort(name=name, type=_port_type(kind), branch=True) for name, kind in given.items())
    if getattr(returns, "__origin__", None) is Result:
        (returns,) = returns.__args__
    if returns is None or returns is type(None):
        return ()
    kind = _port_type(returns)
    return (OutputPort(name="text" if kind == "text" else "data", type=kind),)


def _port_type(kind: Any) -> PortType:  # Any: a type form
    return "text" if kind is str else ("any" if kind in (Any, object, Result) else "data")


def _bare(kind: Any) -> Any:  # Any: a type form
    """`kind` without its `| None`."""
    members = [member for member in getattr(kind, "__args__", ()) if member is not type(None)]
    optional = len(members) == 1 and type(None) in getattr(kind, "__args__", ())
    return members[0] if optional else kind


def _copy(parameter: inspect.Parameter) -> Callable[[], Any]:
    """The parameter's default, as it would be if a literal gave it."""
    body = encode_value(parameter.default)
    return lambda: msgspec.json.decode(body) if isinstance(parameter.default, list | dict) else parameter.default


def _run(
    fn: Function, parameters: list[inspect.Parameter], called: str, ports: frozenset[str] | None, asynchronous: bool
) -> Run:
    takes_context = any(parameter.name == CONTEXT for parameter in parameters)
    names = [parameter.name for parameter in parameters if parameter.name != CONTEXT]

    def arguments(context: ComponentContext, inputs: Struct) -> dict[str, Any]:
        given = {name: getattr(inputs, name) for name in names}
        return {**given, CONTEXT: context} if takes_context else given

    def checked(value: Any) -> Any:  # Any: a user value, or a dict of ports
        if ports is None:
            return value
        bare = value.value if isinstance(value, Result) else value
        if not isinstance(bare, dict) or not ports.issuperset(bare):
            raise Malformed(f"component {called} returns a dict of {', '.join(sorted(ports))}")
        return value

    async def run(context: ComponentContext, inputs: Struct) -> UserValue:
        result = fn(**arguments(context, inputs))
        return checked(await result if isinstance(result, Awaitable) else result)

    def in_thread(context: ComponentContext, inputs: Struct) -> UserValue:
        return checked(fn(**arguments(context, inputs)))

    return run if asynchronous else in_thread
