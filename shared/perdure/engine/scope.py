"""Who is calling: the branch whose code runs, or the step inside which code runs. Both travel as context variables."""

import asyncio
from contextvars import ContextVar
from typing import TYPE_CHECKING, Final

from perdure.errors import ConcurrencyError

if TYPE_CHECKING:
    from perdure.engine.branches import Branch, Branches
    from perdure.engine.steps import Run

BRANCH: "Final[ContextVar[Branch | None]]" = ContextVar("perdure_branch", default=None)
RUN: "Final[ContextVar[Run | None]]" = ContextVar("perdure_run", default=None)


def branch_here(owner: "Branches") -> "Branch":
    """The branch of `owner` whose own code is running. Raises ConcurrencyError, naming the cure, anywhere else."""
    run = RUN.get()
    if run is not None:
        raise ConcurrencyError(
            f"step {run.key.name} called the context: inside a step only delta, progress, log, idempotency_key, "
            "cancelled and attempt work; make the call in the workflow, before or after the step"
        )
    branch = BRANCH.get()
    if branch is None or branch.owner is not owner or branch.task is not _current_task():
        raise ConcurrencyError(
            "a context call came from a task or thread that the workflow does not own: "
            "run branches with ctx.gather, not with asyncio tasks, and limit a call with its timeout="
        )
    return branch


def run_here(owner: "Branches") -> "Run | None":
    """The run of a step of `owner` inside which code runs, None in the body of the workflow."""
    run = RUN.get()
    return run if run is not None and run.call.branch.owner is owner else None


def _current_task() -> asyncio.Task[object] | None:
    try:
        return asyncio.current_task()
    except RuntimeError:  # a thread without a loop
        return None
