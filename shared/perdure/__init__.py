"""Perdure: durable background flows that can stop for a person and go on later.

The public names are loaded when they are first used: importing `perdure` costs nothing that a program does not need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from perdure.client.http import Client
    from perdure.client.sync import SyncClient
    from perdure.core.event import Action, Assignees, Escalation, Named, OnTimeout, Quorum, Usage, Vote, Wrong
    from perdure.core.retry import NEVER, RetryPolicy
    from perdure.engine.asking import Answer
    from perdure.engine.components.contract import Component, ComponentContext
    from perdure.engine.components.user import component
    from perdure.engine.context import Context
    from perdure.engine.reask import AskAgain
    from perdure.engine.result import Result
    from perdure.engine.toolcall import ToolDecision
    from perdure.engine.workflow import Workflow, workflow
    from perdure.errors import (
        Cancelled,
        ChildFailed,
        Closed,
        ConcurrencyError,
        Invalid,
        NotApproved,
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
    "AskAgain": "engine.reask",
    "Assignees": "core.event",
    "Cancelled": "errors",
    "ChildFailed": "errors",
    "Client": "client.http",
    "Closed": "errors",
    "Component": "engine.components.contract",
    "ComponentContext": "engine.components.contract",
    "ConcurrencyError": "errors",
    "Context": "engine.context",
    "Escalation": "core.event",
    "Invalid": "errors",
    "NEVER": "core.retry",
    "Named": "core.event",
    "NotApproved": "errors",
    "OnTimeout": "core.event",
    "PerdureError": "errors",
    "Quorum": "core.event",
    "RequestExpired": "errors",
    "RequestWithdrawn": "errors",
    "Result": "engine.result",
    "RetryPolicy": "core.retry",
    "Retryable": "errors",
    "StepFailed": "errors",
    "Suspended": "errors",
    "SyncClient": "client.sync",
    "Terminal": "errors",
    "ToolDecision": "engine.toolcall",
    "Usage": "core.event",
    "Vote": "core.event",
    "Workflow": "engine.workflow",
    "Wrong": "core.event",
    "component": "engine.components.user",
    "workflow": "engine.workflow",
}

__all__ = [
    "NEVER",
    "Action",
    "Answer",
    "AskAgain",
    "Assignees",
    "Cancelled",
    "ChildFailed",
    "Client",
    "Closed",
    "Component",
    "ComponentContext",
    "ConcurrencyError",
    "Context",
    "Escalation",
    "Invalid",
    "Named",
    "NotApproved",
    "OnTimeout",
    "PerdureError",
    "Quorum",
    "RequestExpired",
    "RequestWithdrawn",
    "Result",
    "RetryPolicy",
    "Retryable",
    "StepFailed",
    "Suspended",
    "SyncClient",
    "Terminal",
    "ToolDecision",
    "Usage",
    "Vote",
    "Workflow",
    "Wrong",
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
