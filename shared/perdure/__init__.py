"""Perdure: durable background flows that can stop for a person and go on later.

The public names are loaded when they are first used: importing `perdure` costs nothing that a program does not need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.core.event import Action, Assignees, Named, OnTimeout, Usage
    from perdure.core.retry import NEVER, RetryPolicy
    from perdure.engine.asking import Answer
    from perdure.engine.components.contract import Component, ComponentContext
    from perdure.engine.components.user import component
    from perdure.engine.context import Context
    from perdure.engine.result import Result
    from perdure.engine.workflow import Workflow, workflow
    from perdure.errors import (
        Cancelled,
        ChildFailed,
        Closed,
        ConcurrencyError,
        PerdureError,
        RequestExpired,
        RequestWithdrawn,
        Retryable,
        StepFailed,
        Suspended,
        Terminal,
    )

__version__ = "0.1.0"

_HOME = {
    "Action": "core.event",
    "Answer": "engine.asking",
    "Assignees": "core.event",
    "Cancelled": "errors",
    "ChildFailed": "errors",
    "Closed": "errors",
    "Component": "engine.components.contract",
    "ComponentContext": "engine.components.contract",
    "ConcurrencyError": "errors",
    "Context": "engine.context",
    "NEVER": "core.retry",
    "Named": "core.event",
    "OnTimeout": "core.event",
    "PerdureError": "errors",
    "RequestExpired": "errors",
    "RequestWithdrawn": "errors",
    "Result": "engine.result",
    "RetryPolicy": "core.retry",
    "Retryable": "errors",
    "StepFailed": "errors",
    "Suspended": "errors",
    "Terminal": "errors",
    "Usage": "core.event",
    "Workflow": "engine.workflow",
    "component": "engine.components.user",
    "workflow": "engine.workflow",
}

__all__ = [
    "NEVER",
    "Action",
    "Answer",
    "Assignees",
    "Cancelled",
    "ChildFailed",
    "Closed",
    "Component",
    "ComponentContext",
    "ConcurrencyError",
    "Context",
    "Named",
    "OnTimeout",
    "PerdureError",
    "RequestExpired",
    "RequestWithdrawn",
    "Result",
    "RetryPolicy",
    "Retryable",
    "StepFailed",
    "Suspended",
    "Terminal",
    "Usage",
    "Workflow",
    "__version__",
    "component",
    "workflow",
]


def __getattr__(name: str) -> Any:  # whatever the public name is
    if name not in _HOME:
        raise AttributeError(f"module 'perdure' has no attribute {name!r}")
    value = getattr(import_module(f"perdure.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
