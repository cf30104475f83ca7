"""The embedded broker as a process: its files, its ports, its end, its parent's end."""

import os
import signal
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from perdure.errors import PerdureError, Unavailable
from perdure.local.server import NatsServer, find_binary

Eventually = Callable[..., Awaitable[None]]


def alive(pid: int) -> bool:
    """Whether a process is there and no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_its_secrets_are_readable_by_its_owner_only(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "nats") as server:
        config = server.folder / "nats.conf"
        assert stat.S_IMODE(config.stat().st_mode) == 0o600
        assert stat.S_IMODE(server.folder.stat().st_mode) == 0o700
        text = config.read_text()
        assert all(c.password in text for c in server.credentials.values())
        assert "sync_interval: always" in text
        assert 'listen: "127.0.0.1:-1"' in text
        command = Path(f"/proc/{server.pid}/cmdline").read_bytes().decode()
        assert not any(c.password in command for c in server.credentials.values())


def test_it_is_healthy_when_it_has_started_and_not_when_it_was_killed(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        assert server.running
        assert server.healthy()
        server.kill()
        assert not server.running
        assert not server.healthy()
        assert server.pid is None


def test_every_later_start_has_the_ports_and_passwords_of_the_first(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        url, http, credentials = server.url, server.http_url, dict(server.credentials)
        for end in (server.kill, server.stop):
            end()
            server.start()
            assert (server.url, server.http_url, server.credentials) == (url, http, credentials)
            assert server.healthy()


def test_two_servers_have_ports_and_passwords_of_their_own(tmp_path: Path) -> None:
    with NatsServer(tmp_path / "a") as one, NatsServer(tmp_path / "b") as two:
        assert len({one.url, one.http_url, two.url, two.http_url}) == 4
        assert one.credentials["admin"].password != two.credentials["admin"].password


def listening_on(port: int) -> set[str]:
    """The IPv4 addresses, as the kernel writes them, on which somebody listens on `port`."""
    fields = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    sockets = [f[1].split(":") for f in fields if f[3] == "0A"]
    return {host for host, number in sockets if int(number, 16) == port}


def test_it_listens_on_loopback_only(tmp_path: Path) -> None:
    with NatsServer(tmp_path) as server:
        for url in (server.url, server.http_url):
            assert listening_on(int(url.rsplit(":", 1)[1])) == {"0100007F"}


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    server = NatsServer(tmp_path)
    server.start()
    second = NatsServer(tmp_path / "second")
    second._port, second._http_port = server._port, 0
    with pytest.raises(Unavailable, match="address already in use"):
        second.start()
    assert not second.running
    server.stop()


def test_stop_ends_one_that_is_frozen(tmp_path: Path) -> None:
    server = NatsServer(tmp_path).start()
    server.signal(signal.SIGSTOP)
    server.stop(grace_seconds=5.0)
    assert not server.running


def test_a_descriptor_that_is_handed_down_lives_as_long_as_the_server(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    server = NatsServer(tmp_path, pass_fds=(writer,)).start()
    os.close(writer)
    os.set_blocking(reader, False)
    with pytest.raises(BlockingIOError):
        os.read(reader, 1)  # somebody holds the other end
    server.stop()
    assert os.read(reader, 1) == b""
    os.close(reader)


@pytest.mark.skipif(sys.platform != "linux", reason="PR_SET_PDEATHSIG is Linux's")
async def test_it_does_not_outlive_the_process_that_started_it(tmp_path: Path, eventually: Eventually) -> None:
    code = (
        "import sys, time; from pathlib import Path; from perdure.local.server import NatsServer; "
        "s = NatsServer(Path(sys.argv[1])).start(); print(s.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)  # noqa: ASYNC220 - nothing else to do here
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    assert alive(pid)
    parent.kill()
    parent.wait()
    parent.stdout.close()
    await eventually(lambda: not alive(pid))


def test_the_binary_is_the_wheels_unless_another_is_named(tmp_path: Path) -> None:
    assert find_binary({}).name == "nats-server"
    assert find_binary({"PERDURE_NATS_SERVER": "/somewhere/else"}) == Path("/somewhere/else")
    with pytest.raises((PerdureError, FileNotFoundError)):
        NatsServer(tmp_path, binary=Path("/somewhere/else")).start()
