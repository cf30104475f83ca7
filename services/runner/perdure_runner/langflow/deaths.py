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

UNKNOWN: Final = os.EX_OSERR << 8  # the status of a child whose end nobody saw
POLICY: Final = RetryPolicy(max_failures=3)
_NAMES: Final = {each.value: each.name for each in signal.Signals}  # without those that have numbers alone


class Death(Struct, frozen=True):
    """Why a child ended without a word."""

    code: str
    message: str


def death(status: int) -> Death:
    """From how it ended, as `waitpid` has it; UNKNOWN where that was never heard."""
    if status == UNKNOWN:
        return Death("child_died", "the process of the flow was lost")
    if os.WIFEXITED(status) and os.WEXITSTATUS(status) == OUT_OF_MEMORY:
        return Death("out_of_memory", "the flow took more memory than a process of this runner may")
    if os.WIFSIGNALED(status):
        name = _NAMES.get(os.WTERMSIG(status), f"signal {os.WTERMSIG(status)}")
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
