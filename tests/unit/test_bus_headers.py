"""Headers of messages from the broker: read as nats-py reads them."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from nats.aio.client import Client

from perdure.bus.natspy import Connection

NAMES = st.text(string.ascii_letters + string.digits + "-_", min_size=1, max_size=20)
VALUES = st.text(st.characters(exclude_characters="\r\n", exclude_categories=["Cs"]), max_size=30)
PADS = st.sampled_from(["", " ", "\t", "  "])


async def read(raw: bytes | None) -> tuple[object, object]:
    """What we make of it, and what nats-py does."""
    return await Connection()._process_headers(raw), await Client()._process_headers(raw)


@given(lines=st.lists(st.tuples(NAMES, PADS, VALUES, PADS), min_size=1, max_size=6))
async def test_headers_are_read_alike(lines: list[tuple[str, str, str, str]]) -> None:
    raw = b"NATS/1.0\r\n" + "".join(f"{n}:{a}{v}{b}\r\n" for n, a, v, b in lines).encode() + b"\r\n"
    ours, theirs = await read(raw)
    assert ours == theirs


@pytest.mark.parametrize(
    "raw",
    [
        None,
        b"",
        b"NATS/1.0\r\n\r\n",
        b"NATS/1.0 503\r\n\r\n",
        b"NATS/1.0 404 No Messages\r\n\r\n",
        b"NATS/1.0 204 EOB\r\nNats-Num-Pending: 3\r\nNats-Last-Sequence: 9\r\n\r\n",
        b"NATS/1.0\r\nno colon\r\nA: 1\r\nA: 2\r\n\r\n",
        b"NATS/1.0\r\nBroken: \xff\xfe\r\n\r\n",
    ],
)
async def test_what_is_out_of_the_ordinary_is_read_alike(raw: bytes | None) -> None:
    ours, theirs = await read(raw)
    assert (ours or None) == (theirs or None)
