from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from perdure.client.sse import SseFrame, SseParser

STREAM = (
    b': hello\nretry: 1500\n\nid: 17\nevent: step.completed\ndata: {"a":1}\n\n'
    b'event: delta.text\ndata: {"t":"\xc3\xa9"}\n\n: hb\n\nid: 18\n\nid: 19\r\ndata: x\r\ndata:y\r\n\n\ndata: cut'
)
FRAMES = [
    SseFrame("17", "step.completed", b'{"a":1}'),
    SseFrame(None, "delta.text", '{"t":"é"}'.encode()),
    SseFrame("18", "message", b""),
    SseFrame("19", "message", b"x\ny"),
]


@given(st.lists(st.integers(0, len(STREAM)), max_size=20))
def test_frames_are_the_same_wherever_the_stream_is_cut_into_chunks(cuts: list[int]) -> None:
    parser, edges = SseParser(), [0, *sorted(cuts), len(STREAM)]
    found = [f for a, b in pairwise(edges) for f in parser.feed(STREAM[a:b])]
    assert found == FRAMES
    assert parser.retry_ms == 1500


def test_what_an_interrupted_stream_leaves_behind_is_no_frame() -> None:
    assert SseParser().feed(b"id: 1\nevent: x\ndata: {}\n") == []
