"""The journal: from every prefix of it a flow ends as if nothing had happened."""

import asyncio
import json
from itertools import product
from typing import Any

import msgspec
import pytest
from tests.langflow import flowfiles
from tests.langflow.drive import Played, once, order, play

from perdure.core.langflow.entry import Finished
from perdure_runner.langflow.frames import Begun, Broken, Done, Ended, Planned
from perdure_runner.langflow.pool import Pool

pytestmark = pytest.mark.asyncio(loop_scope="session")

GATES: dict[str, dict[str, tuple[str, ...]]] = {
    "echo": {},
    "router": {},
    "diamond": {},
    "loop": {},
    "two_slow_steps": {},
    "hitl_minimal": {"gate1": ("approve", "reject")},
    "hitl_two_gates": {"gate1": ("approve", "reject"), "gate2": ("ship", "hold")},
    "hitl_fallback": {"gate1": ("approve", "reject", "fallback")},
    "hitl_slow": {"gate1": ("approve", "reject")},
    "hitl_parallel": {"gate1": ("approve", "reject")},
    "hitl_two_parallel_gates": {"gate1": ("approve", "reject"), "gate2": ("approve", "reject")},
    "secret_after_gate": {"gate1": ("approve", "reject")},
    "gate_join": {"gate1": ("approve", "reject")},
}
CASES = [
    (name, dict(zip(gates, actions, strict=True)))
    for name, gates in GATES.items()
    for actions in product(*gates.values())
]


@pytest.fixture(scope="module")
def quick() -> dict[str, dict[str, Any]]:
    return flowfiles.flows(seconds=0)


def kept(played: list[Finished]) -> set[str]:
    return {step.component for step in played if step.entry.kept is not None}


@pytest.mark.parametrize(
    ("name", "actions"), CASES, ids=["-".join([name, *actions.values()]) for name, actions in CASES]
)
async def test_082_from_every_prefix_of_the_journal(
    pool: Pool, quick: dict[str, Any], name: str, actions: dict[str, str]
) -> None:
    start = order(quick[name], "a,b", globals={"MY_KEY": "k"})
    whole = await play(pool, start, actions)
    assert isinstance(whole.end, Ended)

    async def cut(place: int) -> Played:
        return await play(pool, start, actions, whole.journal[:place])

    for place, played in enumerate(await asyncio.gather(*(cut(n) for n in range(len(whole.journal) + 1)))):
        assert isinstance(played.end, Ended), place
        assert played.contents == whole.contents, place
        assert not kept(whole.journal[:place]) & set(played.ran), place


async def test_094_a_finished_journal_starts_nothing(pool: Pool, quick: dict[str, Any]) -> None:
    start = order(quick["diamond"])
    whole = await play(pool, start)
    frames = await once(pool, msgspec.structs.replace(start, journal=whole.journal))
    assert [type(frame) for frame in frames] == [Ended]


async def test_094_nor_does_one_whose_gate_left_a_branch_out(pool: Pool, quick: dict[str, Any]) -> None:
    start = order(quick["hitl_minimal"])
    whole = await play(pool, start, {"gate1": "approve"})
    decided = {whole.asked[0]["request_id"]: {"action_id": "approve", "values": {}}}
    frames = await once(pool, msgspec.structs.replace(start, journal=whole.journal, decisions=decided))
    assert frames == [Ended(skipped=("ChatOutput-no001",))]


async def test_089_another_version_of_lfx_is_said_and_never_guessed(pool: Pool, quick: dict[str, Any]) -> None:
    start = order(quick["echo"])
    whole = await play(pool, start)
    other = [Finished(s.component, msgspec.structs.replace(s.entry, lfx="1.12.0")) for s in whole.journal[:1]]
    (frame,) = await once(pool, msgspec.structs.replace(start, journal=other))
    assert isinstance(frame, Broken)
    assert (frame.code, "1.12.0" in frame.message) == ("code_changed", True)


async def test_084_a_gate_that_is_run_where_lfx_does_not_pause_fails(pool: Pool, quick: dict[str, Any]) -> None:
    body = (
        f"flow = json.loads({json.dumps(json.dumps(quick['hitl_minimal']))})\n"
        "graph = await aload_flow_from_json(flow, disable_logs=True)\n"
        "graph.set_run_id('2b5cc7f5-7d5c-4a9e-9d4e-6f3c6a1f0b11')\n"
        "graph.session_id = 's'\n"
        "ran = [r async for r in graph.async_start()]\n"
        "text = len(ran)"
    )
    flow = flowfiles.custom(body, "import json\nfrom lfx.load import aload_flow_from_json")
    played = await play(pool, order(flow))
    assert isinstance(played.end, Broken)
    assert played.end.code == "HITL_UNSUPPORTED_PLACE"
    assert played.contents == {}


async def test_015_a_partial_run_ends_where_it_is_told(pool: Pool, quick: dict[str, Any]) -> None:
    played = await play(pool, order(quick["two_slow_steps"], stop_component_id="Sleeper-slow1"))
    assert played.ran == ["ChatInput-in001", "Sleeper-slow1"]
    assert isinstance(played.end, Ended)


TABLES = {
    "text": "{'a': ['x', '']}",
    "numbers": "{'i': [1, 2], 'f': [0.1, 2.5e300], 'n': [None, 1.0]}",
    "dates": "{'d': pandas.to_datetime(['2026-01-01T00:00:00.123456', '2026-02-01T00:00:00.5']),"
    " 'z': pandas.to_datetime(['2026-01-01T00:00:00+02:00', '2026-02-01T00:00:00+02:00'])}",
    "durations": "{'t': pandas.to_timedelta(['1s', '2h'])}",
    "nested": "{'o': [{'a': [1, {'b': None}]}, {'a': []}], 'l': [[1, 2], []]}",
    "booleans": "{'b': [True, False]}",
}


@pytest.mark.parametrize("cells", TABLES, ids=str)
async def test_092_a_table_comes_back_equal(pool: Pool, cells: str) -> None:
    played = await play(pool, order(table_flow(TABLES[cells])))
    assert isinstance(played.end, Ended)
    made = next(s for s in played.journal if s.component == "Sleeper-table")
    assert made.entry.kept is not None
    assert made.entry.kept["message"]["__perdure__"] == "table"
    again = await play(pool, order(table_flow(TABLES[cells])), journal=played.journal[:2])
    assert "Sleeper-table" not in again.ran
    assert again.contents == played.contents


async def test_092_bytes_in_a_cell_make_the_producer_run_again(pool: Pool) -> None:
    flow = table_flow("{'a': [b'x']}")
    played = await play(pool, order(flow))
    assert next(s for s in played.journal if s.component == "Sleeper-table").entry.kept is None
    again = await play(pool, order(flow), journal=played.journal[:2])
    assert "Sleeper-table" in again.ran
    assert again.contents == played.contents


def table_flow(cells: str) -> dict[str, Any]:
    """Chat input, a table, what pandas says of it, chat output."""
    source = flowfiles.source_of(
        f"return DataFrame(pandas.DataFrame({cells}))",
        "import pandas\nfrom lfx.schema.dataframe import DataFrame",
        returns="DataFrame",
    )
    reads = flowfiles.source_of(
        "frame = self.text\ntext = str(frame.to_dict('list')) + str(list(map(str, frame.dtypes)))",
        field='DataFrameInput(name="text", display_name="Text")',
        imports="from lfx.io import DataFrameInput",
    )
    ci, co = flowfiles.node("ChatInput", "ChatInput-in001"), flowfiles.node("ChatOutput", "ChatOutput-out01")
    table = flowfiles.sleeper("Sleeper-table", seconds=0, source=source, gives="DataFrame")
    reader = flowfiles.sleeper("Sleeper-reads", seconds=0, source=reads, takes="DataFrame")
    edges = [
        flowfiles.edge(ci, "message", table, "text"),
        flowfiles.edge(table, "message", reader, "text"),
        flowfiles.edge(reader, "message", co, "input_value"),
    ]
    return {"name": "table", "data": {"nodes": [ci, table, reader, co], "edges": edges, "viewport": {}}}


async def test_093_a_tweak_reaches_the_body_of_a_loop(pool: Pool, quick: dict[str, Any]) -> None:
    start = order(quick["loop"], "a,b", tweaks={"ParserComponent-item1": {"pattern": "<{text}>"}})
    played = await play(pool, start)
    assert played.contents["out01"].count("slept:<") == 2
    over = await play(pool, start, journal=[s for s in played.journal if not s.component.startswith("ChatOutput")])
    assert over.ran == ["ChatOutput-out01"]
    assert over.contents == played.contents


async def test_the_plan_counts_components_without_the_body_of_a_loop(pool: Pool, quick: dict[str, Any]) -> None:
    played = await play(pool, order(quick["loop"], "a,b"))
    (plan,) = [frame for frame in played.frames if isinstance(frame, Planned)]
    done = [frame.component for frame in played.frames if isinstance(frame, Done)]
    assert plan.total == len(done) == 5
    assert [frame.component for frame in played.frames if isinstance(frame, Begun)] == done
