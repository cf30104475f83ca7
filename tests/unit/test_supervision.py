"""The pure parts of `perdure up`: when to start again and when to give up, the data folder, the reserved port."""

import asyncio
import json
import os
import socket
import sys
from pathlib import Path

import pytest

from perdure.clock import SystemClock
from perdure.config import Address
from perdure.local.child import Deaths, address_of, reserve
from perdure.local.folder import ClientFile, DataFolder, StartRefused, UpFile, read_client, read_up


def test_pauses_double_from_a_tenth_of_a_second_to_five() -> None:
    deaths = Deaths()
    assert [deaths.count(now=20.0 * n, lived=1.0) for n in range(8)] == [0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]


def test_a_long_life_starts_the_pauses_over() -> None:
    deaths = Deaths()
    assert [deaths.count(0, 1), deaths.count(1, 1), deaths.count(30, 25), deaths.count(31, 1)] == [0.1, 0.2, 0.1, 0.2]


def test_the_tenth_death_within_a_minute_is_the_last() -> None:
    deaths = Deaths()
    assert None not in [deaths.count(now=6.0 * n, lived=0.0) for n in range(9)]
    assert deaths.count(now=54.0, lived=0.0) is None


def test_ten_deaths_over_more_than_a_minute_are_survived() -> None:
    deaths = Deaths()
    assert None not in [deaths.count(now=6.7 * n, lived=0.0) for n in range(30)]


async def test_a_folder_in_use_is_refused_and_says_by_whom(tmp_path: Path) -> None:
    clock, path = SystemClock(), tmp_path / "data"
    first = await DataFolder.open(path, clock)
    with pytest.raises(StartRefused, match=rf"in use by another `perdure up` \(process {os.getpid()}\)"):
        await DataFolder.open(path, clock)
    first.close()
    (await DataFolder.open(path, clock)).close()


async def test_a_lock_that_a_dead_supervisors_broker_still_holds_is_waited_for(tmp_path: Path) -> None:
    clock, path = SystemClock(), tmp_path / "data"
    folder = await DataFolder.open(path, clock)
    heir = await asyncio.create_subprocess_exec(
        sys.executable, "-c", "input()", stdin=asyncio.subprocess.PIPE, pass_fds=(folder.lock_fd,)
    )
    folder.close()
    gone = await asyncio.create_subprocess_exec(sys.executable, "-c", "")
    await gone.wait()
    (path / "lock").write_text(str(gone.pid))  # as if another process had been the supervisor
    opening = asyncio.ensure_future(DataFolder.open(path, clock))
    await asyncio.wait([opening], timeout=0.2)
    assert not opening.done()
    await heir.communicate(b"\n")
    (await opening).close()


async def test_data_of_a_newer_program_are_not_opened(tmp_path: Path) -> None:
    (tmp_path / "format.json").write_text(json.dumps({"data": 2, "perdure": "9.1.0"}))
    with pytest.raises(StartRefused, match=r"written by perdure 9\.1\.0 .*use 9\.1\.0 or newer"):
        await DataFolder.open(tmp_path, SystemClock())
    (tmp_path / "format.json").unlink()
    (await DataFolder.open(tmp_path, SystemClock())).close()  # the refusal gave the lock back


async def test_files_of_the_folder_are_the_owners_alone_and_come_back(tmp_path: Path) -> None:
    folder = await DataFolder.open(tmp_path / "data", SystemClock())
    assert read_client(folder.path) is None
    assert read_up(folder.path) is None
    folder.write_client(ClientFile("http://h:1", "pdr_x"))
    folder.write_up(UpFile(7, "http://h:1", {"gateway": 8}))
    assert read_client(folder.path) == ClientFile("http://h:1", "pdr_x")
    assert read_up(folder.path) == UpFile(7, "http://h:1", {"gateway": 8})
    assert folder.path.stat().st_mode & 0o77 == 0
    assert (folder.path / "client.json").stat().st_mode & 0o77 == 0
    folder.close()
    assert read_up(folder.path) is None


def test_a_reserved_port_can_be_listened_on_by_a_child_and_by_nobody_twice() -> None:
    with reserve(Address("127.0.0.1", 0)) as held:
        address = address_of(held)
        for _ in range(2):  # as the first child and the one after it
            with socket.socket() as child:
                child.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                child.bind(tuple(address))
                child.listen()
                with pytest.raises(OSError, match="in use"):
                    reserve(address)
