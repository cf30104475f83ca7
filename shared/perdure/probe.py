"""Failpoints: named places where a test may kill or freeze a process. Nothing unless armed by PERDURE_FAILPOINTS.

    PERDURE_FAILPOINTS="step.after_run=exit:p0.01;claim.after_append=stop;suspend.after_append=exit:n3"

Actions: `exit` (137 at once, no cleanup), `stop` (SIGSTOP to itself; the test continues it), `raise` (SimulatedCrash).
Options: `pX` a probability, `nK` only the K-th hit (from 1), `@FILE` only for who makes that file: once in however
many processes and lives. The names are the table POINTS; a test keeps it complete.
"""

import os
import random
import signal
from collections import Counter
from typing import Final, NamedTuple

POINTS: Final = frozenset(
    {
        "submit.before_append", "submit.after_append", "submit.after_ring",
        "claim.after_fetch", "claim.after_read", "claim.after_append",
        "step.before_run", "step.after_run", "step.after_append",
        "blob.after_put",
        "suspend.before_append", "suspend.after_append", "suspend.after_arm",
        "terminal.before_append", "terminal.after_append", "terminal.after_ack",
        "answer.after_auth", "answer.before_append", "answer.after_append", "answer.after_ring",
        "human.after_append",
        "time.after_append", "remind.after_tell", "look.after_read", "alarm.after_arm", "close.before_withdraw",
        "cancel.after_append", "cancel.after_grace", "call.after_submit", "heartbeat.before_request",
        "delta.before_publish", "follow.after_replay", "follow.before_live",
        "drain.after_suspend", "drain.before_nak",
        "child.after_end", "child.after_parent_append",
        "sweep.after_scan", "sweep.after_ring",
        "migrate.between_steps",
        "retention.after_scan", "retention.after_archive", "retention.before_purge",
        "project.after_read", "project.before_commit", "project.after_commit", "project.after_announce",
    }
)  # fmt: skip


class SimulatedCrash(BaseException):
    """The process died here (in-process tests)."""


class _Armed(NamedTuple):
    action: str
    probability: float
    only: int | None
    once: str | None


def _parse(text: str) -> dict[str, _Armed]:
    armed: dict[str, _Armed] = {}
    for entry in filter(None, (e.strip() for e in text.split(";"))):
        name, _, rest = entry.partition("=")
        action, *options = rest.split(":")
        if name not in POINTS or action not in ("exit", "stop", "raise"):
            raise ValueError(f"PERDURE_FAILPOINTS: no such point or action: {entry}")
        probability, only, once = 1.0, None, None
        for option in options:
            if option.startswith("p"):
                probability = float(option[1:])
            elif option.startswith("n"):
                only = int(option[1:])
            elif option.startswith("@"):
                once = option[1:]
            else:
                raise ValueError(f"PERDURE_FAILPOINTS: no such option: {entry}")
        armed[name] = _Armed(action, probability, only, once)
    return armed


_armed: dict[str, _Armed] = _parse(os.environ.get("PERDURE_FAILPOINTS", ""))
_hits: Counter[str] = Counter()


def arm(text: str) -> None:
    """Replace what is armed in this process, for tests; "" disarms everything."""
    _armed.clear()
    _hits.clear()
    _armed.update(_parse(text))


def hit(name: str) -> None:
    """Pass the point `name`; die, freeze or raise here when a test armed it."""
    if not _armed:
        return
    point = _armed.get(name)
    if point is None:
        return
    _hits[name] += 1
    if (point.only is not None and _hits[name] != point.only) or random.random() >= point.probability:
        return
    if point.once is not None and not _first(point.once):
        return
    if point.action == "exit":
        os._exit(137)
    if point.action == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        raise SimulatedCrash(name)


def _first(marker: str) -> bool:
    """Whether nobody has made the file `marker` before."""
    try:
        os.close(os.open(marker, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    except FileExistsError:
        return False
    return True
