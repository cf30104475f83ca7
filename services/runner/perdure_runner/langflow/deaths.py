"""How a child died, and whether its job is tried again."""

import os
import signal
from typing import Final

from msgspec import Struct
from msgspec.structs import replace

from perdure.core import retry
from perdure.core.instant import Instant, later
from perdure.core.machine import JobState
from perdure.core.retry import RetryPolicy
from perdure_runner.langflow.frames import OUT_OF_MEMORY

POLICY: Final = RetryPolicy(max_failures=3)


class Death(Struct, frozen=True):
    """Why a child ended without a word."""

    code: str
    message: str


def death(status: int) -> Death:
    """From how it ended, as `waitpid` has it."""
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == OUT_OF_MEMORY:
        return Death("out_of_memory", "the flow took more memory than a process of this runner may")
    if os.WIFSIGNALED(status):
        name = signal.Signals(os.WTERMSIG(status)).name
        if name == "SIGXCPU":
            return Death("timeout", "the flow took more time of the processor than it may")
        return Death("child_died", f"the process of the flow was ended by {name}")
    return Death("child_died", f"the process of the flow ended with code {os.waitstatus_to_exitcode(status)}")


def tried_again(job: JobState, failures: int, now: Instant, chance: float) -> Instant | None:
    """When the job is tried again after its `failures`-th failure; None: no more."""
    most = job.submitted.max_failures if job.submitted is not None else None
    policy = POLICY if most is None else replace(POLICY, max_failures=most)
    wait = retry.delay(policy, failures, chance)
    return None if wait is None else later(now, wait)
