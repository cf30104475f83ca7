"""How the sweeper's loops go round: at once while there is more, else when woken or after a period with jitter."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from perdure import log as logs
from perdure.clock import Chance, Clock
from perdure.errors import Unavailable

PERIOD_SECONDS: Final = 2.0
JITTER: Final = 0.25  # earlier, so that several sweepers do not go round together
AGAIN_SECONDS: Final = 0.5  # after the broker or the database was away

log = logs.get(__name__)


def period(chance: Chance) -> float:
    """Seconds until the next round, PERIOD_SECONDS at most."""
    return PERIOD_SECONDS * (1 - JITTER * chance.random())


def every(seconds: float, once: Callable[[], Awaitable[int]], clock: Clock) -> Callable[[], Awaitable[int]]:
    """`once` for `repeat`: done at the first round, then `seconds` after it last went through."""
    due_at = clock.monotonic()

    async def sometimes() -> int:
        nonlocal due_at
        if clock.monotonic() < due_at:
            return 0
        await once()
        due_at = clock.monotonic() + seconds
        return 0

    return sometimes


async def repeat(
    name: str,
    once: Callable[[], Awaitable[int]],
    clock: Clock,
    chance: Chance,
    woken: asyncio.Event | None = None,
    settle_seconds: float = 0.0,
    full: int = 1,
) -> None:
    """Call `once` for ever, again at once while it says that it did something.

    With `settle_seconds` what comes in a burst is done together: it pauses so long when woken, and after a round that
    did less than `full`. While the broker or the database is away it is tried again and again; that is logged when it
    begins and when it ends.
    """
    woken = asyncio.Event() if woken is None else woken
    away = False
    while True:
        woken.clear()
        try:
            more = await once()
        except Unavailable as exc:
            if not away:
                log.warning("sweep held up", duty=name, why=str(exc))
            away = True
            await clock.sleep(AGAIN_SECONDS * (1 + chance.random()))
            continue
        if away:
            log.info("sweep goes on", duty=name)
        away = False
        if more < full and (more or await _wait(woken, period(chance))):
            await clock.sleep(settle_seconds)


async def _wait(woken: asyncio.Event, seconds: float) -> bool:
    """Whether it was woken before the time was over."""
    try:
        async with asyncio.timeout(seconds):
            return await woken.wait()
    except TimeoutError:
        return False
