"""Tells a job to a stream adapter as `perdure.jobs.follow` does, without a broker: for properties over cut streams."""

from collections.abc import Callable, Iterator, Sequence

from perdure.core import codec
from perdure.core.event import TERMINAL, AnyEvent
from perdure.core.stream.adapter import StreamAdapter
from perdure.core.stream.delta import Said
from perdure.core.stream.frame import Frame
from perdure.core.stream.offset import START, Offset
from perdure.core.stream.reading import Hole, Reading, Reset, Show

Heard = AnyEvent | Said


def nothing(_said: Said) -> bool:
    """A line that loses nothing."""
    return False


def tell(
    adapter: StreamAdapter,
    heard: Sequence[Heard],
    begin: int,
    after: Offset = START,
    *,
    lost: Callable[[Said], bool] = nothing,
    forgotten: int = 0,
) -> Iterator[Frame]:
    """The frames of one connection behind the offset `after`.

    `heard` are events and deltas in the order in which a gateway would hear them, were nothing lost; the reader comes
    when the first `begin` of them (at least one, an event) have happened, and sees the others live. `lost`: the line
    loses this one; LIVE no longer has the `forgotten` oldest deltas.
    """
    told = [item for item in heard[:begin] if not isinstance(item, Said)]
    view = Reading(after, told[-1].status, told[-1].attempt, fresh=after == START)
    for event in told[after.seq :]:
        view.event(event)
        yield from adapter.on_event(codec.encode(event), event)
    if told[-1].status in TERMINAL:
        yield from adapter.on_caught_up()
        return
    if adapter.deltas:
        live = _live(heard, begin, forgotten)
        yield from _show(adapter, view.join(live, _log(view, heard, live)))
    yield from adapter.on_caught_up()
    for moment, item in enumerate(heard[begin:], start=begin + 1):
        if adapter.ended:
            return
        kept = _live(heard, moment, forgotten)
        if not isinstance(item, Said):
            shows = view.event(item)
            yield from adapter.on_event(codec.encode(item), item)
            if item.status in TERMINAL:
                return
            yield from _show(adapter, shows + _say(view, heard, view.caught_up(), kept, waited=True))
        elif adapter.deltas and not lost(item):
            yield from _show(adapter, _say(view, heard, [item], kept, waited=False))
    if adapter.deltas and not adapter.ended:  # as when the line says that it lost something
        kept = _live(heard, len(heard), forgotten)
        yield from _show(adapter, view.heal(kept, _log(view, heard, kept)) if view.running else [])


def _say(view: Reading, heard: Sequence[Heard], said: list[Said], kept: list[Said], *, waited: bool) -> list[Show]:
    shows = view.say(said, waited=waited)
    return view.heal(kept + said, _log(view, heard, kept + said)) if isinstance(shows, Hole) else shows


def _show(adapter: StreamAdapter, shows: Sequence[Show]) -> Iterator[Frame]:
    for show in shows:
        yield from adapter.on_reset(show) if isinstance(show, Reset) else adapter.on_delta(show.said, show.at)


def _live(heard: Sequence[Heard], moment: int, forgotten: int) -> list[Said]:
    return [item for item in heard[:moment] if isinstance(item, Said)][forgotten:]


def _log(view: Reading, heard: Sequence[Heard], kept: Sequence[Said]) -> list[AnyEvent]:
    oldest = view.oldest(kept)
    events = [item for item in heard if not isinstance(item, Said)]
    return [] if oldest is None else events[oldest : view.offset.seq]
