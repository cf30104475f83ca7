"""Threads for synchronous steps: no more than allowed, reused, free of what they ran, no hindrance to the end."""

import asyncio
import gc
import subprocess
import sys
import threading
import weakref

from perdure.engine.threads import Threads


async def test_calls_run_side_by_side_up_to_the_bound_and_the_rest_wait_in_order() -> None:
    threads, go, begun, running = Threads(2), threading.Event(), list[int](), threading.Semaphore(0)

    def run(n: int) -> tuple[int, str]:
        begun.append(n)
        running.release()
        go.wait(10)
        return n, threading.current_thread().name

    calls = [threads.call(run, n) for n in range(5)]
    assert await asyncio.to_thread(lambda: all(running.acquire(timeout=10) for _ in range(2)))
    assert sorted(begun) == [0, 1]
    go.set()
    ended = await asyncio.gather(*calls)
    assert [n for n, _ in ended] == [0, 1, 2, 3, 4]
    assert len({name for _, name in ended}) == 2


async def test_a_thread_is_used_again_and_keeps_nothing_of_what_it_ran() -> None:
    class Thing:
        pass

    threads, thing = Threads(64), Thing()
    names = set()
    for _ in range(20):
        names.add(await threads.call(lambda _: threading.current_thread().name, thing))
    assert len(names) == 1
    gone = weakref.ref(thing)
    del thing
    await threads.call(lambda: None)  # whatever it held is let go before it takes the next
    gc.collect()
    assert gone() is None


async def test_a_cancelled_call_runs_out_and_is_heard_by_nobody() -> None:
    threads, go, ran = Threads(1), threading.Event(), threading.Event()

    def run() -> None:
        go.wait(10)
        ran.set()

    call = threads.call(run)
    call.cancel()
    go.set()
    assert await threads.call(lambda: "next") == "next"
    assert ran.is_set()
    assert call.cancelled()


def test_a_function_that_never_returns_does_not_keep_the_process() -> None:
    program = """
import asyncio, threading
from perdure.engine.threads import Threads
async def main():
    running = threading.Event()
    Threads(1).call(lambda: (running.set(), threading.Event().wait()))
    await asyncio.sleep(0)
    running.wait(10)
asyncio.run(main())
"""
    assert subprocess.run([sys.executable, "-c", program], timeout=60, check=False).returncode == 0
