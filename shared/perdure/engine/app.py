"""The Python flows of a runner: the workflows of its `--app` modules, with what others must know of each.

A flow is known by its name; the digest of its source says which code that was, for people and for versions, and is
never compared with what a job was submitted under.
"""

import importlib
import inspect
import os
import sys
from collections.abc import Callable, Iterable, Mapping
from hashlib import sha256
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from perdure.core.graph.catalogue import extended
from perdure.engine.components.contract import Component
from perdure.engine.components.user import load as components
from perdure.engine.described import Schema, schema_of
from perdure.engine.values import Shape, input_shape, shape_of
from perdure.engine.workflow import Workflow, load
from perdure.errors import Malformed
from perdure.ids import Digest

MOST_FLOWS: Final = 500
MOST_DESCRIPTION_CHARS: Final = 4_000


class PythonFlow(Struct, frozen=True, kw_only=True):
    """A workflow and what a gateway must know of it. A schema is None where the code declares nothing."""

    workflow: Workflow  # its `digest` is this one's
    module: str
    digest: Digest
    description: str | None = None
    input_schema: Schema | None = None
    output_schema: Schema | None = None


class AppRefused(Malformed):
    """A module of `--app` that this process cannot run; the message names it and says why."""


def load_apps(modules: Iterable[str]) -> dict[str, PythonFlow]:
    """The flows of `modules` (dotted names; the current folder is searched first), by name.

    Raises AppRefused for a module that does not import or holds no workflow, for two workflows of one name, and for an
    annotation that is no JSON.
    """
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)
    found: dict[str, PythonFlow] = {}
    for module in modules:
        workflows = _workflows(module)
        for name, workflow in workflows.items():
            flow = _flow(workflow)
            if name in found and found[name].workflow.fn is not workflow.fn:
                raise AppRefused(f"--app: {found[name].module} and {flow.module} both define a workflow {name}")
            found[name] = flow
    if len(found) > MOST_FLOWS:
        raise AppRefused(f"--app: {len(found)} workflows, at most {MOST_FLOWS}")
    return found


def load_components(modules: Iterable[str]) -> dict[str, Component]:
    """The components of users in `modules`, by name, for graphs. `load_apps` has imported them before.

    Raises AppRefused for two components of one name, and for a name that is taken.
    """
    found: dict[str, Component] = {}
    try:
        for module in modules:
            for name, component in components(module).items():
                if found.setdefault(name, component) is not component:
                    raise Malformed(f"two components are called {name}")
        extended(component.spec for component in found.values())
    except Malformed as exc:
        raise AppRefused(f"--app: {exc}") from exc
    return found


def _workflows(module: str) -> Mapping[str, Workflow]:
    try:
        workflows, parts = load(module), components(module)
    except Malformed as exc:
        raise AppRefused(f"--app {module}: {exc}") from exc
    except (Exception, SystemExit) as exc:  # whatever a user's module does when it is imported: the start ends with it
        raise AppRefused(f"--app {module} does not import: {type(exc).__name__}: {exc}") from exc
    if not workflows and not parts:
        raise AppRefused(
            f"--app {module} holds no workflow and no component: decorate an `async def` with `@workflow`, "
            "a function with `@component`"
        )
    return workflows


def _flow(workflow: Workflow) -> PythonFlow:
    fn = inspect.unwrap(workflow.fn)
    module = fn.__module__
    digest = _digest(module, fn)
    description = inspect.getdoc(fn)
    return PythonFlow(
        workflow=replace(workflow, digest=digest),
        module=module,
        digest=digest,
        description=description[:MOST_DESCRIPTION_CHARS] if description else None,
        input_schema=_input_schema(workflow),
        output_schema=_described(shape_of(fn), f"the result of {workflow.name}"),
    )


def _input_schema(workflow: Workflow) -> Schema | None:
    shape = input_shape(workflow.fn)
    if shape is None:  # the function takes no input: none may be given
        return {"type": "null"}
    return _described(shape, f"the input of {workflow.name}")


def _described(shape: Shape, what: str) -> Schema | None:
    """The JSON Schema of a type. Raises AppRefused, naming `what`, for a type that has none."""
    try:
        return schema_of(shape)
    except Malformed as exc:
        raise AppRefused(f"--app: {what} is annotated with {shape!r}, which cannot be JSON") from exc


def _digest(module: str, fn: Callable[..., object]) -> Digest:
    """SHA-256 of the source of `module`; of the function's code where there is no source to read."""
    loaded = importlib.import_module(module)
    try:
        return Digest(sha256(inspect.getsource(loaded).encode()).hexdigest())
    except (OSError, TypeError):
        return Digest(sha256(fn.__code__.co_code).hexdigest())
