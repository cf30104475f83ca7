"""Workflows: an async function of a context under a name, and finding those of a user's module."""

import importlib
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, overload

from msgspec import Struct

from perdure.engine.values import input_shape, shaped
from perdure.errors import Malformed
from perdure.ids import FLOW_NAME

if TYPE_CHECKING:
    from perdure.engine.context import Context

Body = Callable[..., Awaitable[Any]]  # (ctx) or (ctx, input); what it takes and returns is the author's


class Workflow(Struct, frozen=True):
    """What a pass runs. `fn` takes the context and, if it wants it, the input, converted to its annotation.

    `digest` names the code or the definition; it explains, it is never compared.
    """

    name: str
    fn: Body
    digest: str | None = None

    async def body(self, context: "Context", given: Any) -> Any:  # any JSON in, what the author returns out
        """Run the function. Raises Malformed when the input does not fit its annotation."""
        shape = input_shape(self.fn)
        if shape is None:
            return await self.fn(context)
        return await self.fn(context, shaped(given, shape))


@overload
def workflow(fn: Body, /) -> Workflow: ...


@overload
def workflow(*, name: str | None = None) -> Callable[[Body], Workflow]: ...


def workflow(fn: Body | None = None, /, *, name: str | None = None) -> Workflow | Callable[[Body], Workflow]:
    """Make an async function a workflow; its name is the function's unless one is given.

    Raises Malformed for a name that no flow can have, TypeError for a function that is not `async def`.
    """

    def made(fn: Body) -> Workflow:
        if not inspect.iscoroutinefunction(fn):
            raise TypeError(f"a workflow is an async function, {fn!r} is not")
        called = name or fn.__name__
        if FLOW_NAME.fullmatch(called) is None:
            raise Malformed(f"a flow cannot be called {called!r}")
        return Workflow(called, fn)

    return made if fn is None else made(fn)


def load(module: str) -> dict[str, Workflow]:
    """The workflows that the module `module` (dotted) defines or imports, by name.

    Raises what the import raises; Malformed when two different workflows bear one name.
    """
    found: dict[str, Workflow] = {}
    for value in vars(importlib.import_module(module)).values():
        if isinstance(value, Workflow) and found.setdefault(value.name, value) is not value:
            raise Malformed(f"two workflows of {module} are called {value.name}")
    return found
