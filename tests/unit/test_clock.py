"""The clock that decides what is due: the broker's, whatever happens to this machine's."""

from datetime import datetime, timedelta

from perdure.clock import SystemClock
from perdure.core.instant import instant, seconds_between

HOUR = timedelta(hours=1)


class Stepped(SystemClock):
    """A machine whose wall clock somebody sets."""

    step = timedelta(0)

    def now(self) -> datetime:
        return super().now() + self.step


def test_a_step_of_the_wall_clock_moves_neither_what_is_due_nor_when() -> None:
    for step in (HOUR, -HOUR):
        clock = Stepped()
        broker = clock.now() + 10 * HOUR
        clock.tell(broker, clock.elapsed())
        clock.step = step
        assert 0 <= seconds_between(instant(broker), clock.broker_now()) < HOUR.total_seconds() / 2
        assert abs(clock.offset - (10 * HOUR - step)) < HOUR / 2


def test_the_own_clock_serves_until_the_broker_was_heard() -> None:
    clock = Stepped()
    clock.step = HOUR
    assert clock.offset == timedelta(0)
    assert seconds_between(instant(SystemClock().now()), clock.broker_now()) > HOUR.total_seconds() / 2
