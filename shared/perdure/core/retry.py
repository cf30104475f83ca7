"""When a failed step is tried again: pure arithmetic over the failures so far and a number in [0, 1)."""

from typing import Final

from msgspec import Struct


class RetryPolicy(Struct, frozen=True, kw_only=True):
    """`max_failures` tries in all; the delays between them double from `first_seconds` up to `most_seconds`."""

    max_failures: int = 5
    first_seconds: float = 1.0
    most_seconds: float = 300.0


DEFAULT: Final = RetryPolicy()
NEVER: Final = RetryPolicy(max_failures=1)


def delay(policy: RetryPolicy, failures: int, chance: float, after_seconds: float | None = None) -> float | None:
    """Seconds until the next try after the `failures`-th failure (from 1), None when there is none.

    Full jitter: a uniform share (`chance` in [0, 1)) of the doubled delay, so that what failed together does not come
    back together. `after_seconds` is what the failed side asked for; it is obeyed up to the policy's `most_seconds`.
    """
    if failures >= policy.max_failures:
        return None
    share = min(policy.most_seconds, policy.first_seconds * 2.0 ** min(failures - 1, 60)) * chance
    return max(share, min(after_seconds or 0.0, policy.most_seconds))
