"""A graph as it stands after the journal: one way to go on, after a crash and after an answer alike.

A fresh graph, the journal folded in, the decisions set. Ids come before tweaks, since the path of a file in a tweak is
checked against them; tweaks, inputs and globals come again after the restore, which makes components anew.
"""

import json
from typing import Any, Final

import msgspec
from lfx.cli.runtime_variables import apply_global_vars_to_graph
from lfx.graph.checkpoint.resume import restore_graph_from_checkpoint
from lfx.graph.checkpoint.schema import GraphCheckpoint
from lfx.load import aload_flow_from_json
from lfx.processing.process import process_tweaks_on_graph
from lfx.run._defaults import apply_run_defaults
from lfx.schema.schema import INPUT_FIELD_NAME
from lfx.services.variable.request_scope import activate_no_env_fallback, activate_request_variables

from perdure.core.langflow.entry import Finished
from perdure_runner.langflow.child.schedule import before_open_cycle, repair
from perdure_runner.langflow.child.values import decode
from perdure_runner.langflow.frames import Start

_WHOLE: Final = {"__lfx_ser__": "dict", "value": {}}  # lfx takes it for a whole result; `_put_back` brings the real one


async def graph_of(start: Start) -> Any:
    """The graph, ready to run on. Raises whatever loading a flow's code raises."""
    graph = await _fresh(start)
    graph.prepare(start.stop_component_id, start.start_component_id)
    if start.journal or start.decisions:
        saved = json.loads(graph.build_checkpoint().model_dump_json())
        done = start.journal[: before_open_cycle(graph, [step.component for step in start.journal])]
        _fold(saved, done, start.decisions)
        graph = restore_graph_from_checkpoint(GraphCheckpoint.model_validate(saved))
        _put_back(graph, done)
        _set(graph, start)
        graph._persist_resolved_branch_exclusions()  # as a router would: branches that join later need it
        repair(graph)
    return graph


async def _fresh(start: Start) -> Any:
    graph = await aload_flow_from_json(msgspec.json.decode(start.flow), disable_logs=True)
    graph.flow_id = start.flow_id
    graph.set_run_id(start.job_id)
    graph.job_id = start.job_id
    graph.human_input_decisions = {}
    _set(graph, start)
    return graph


def _set(graph: Any, start: Start) -> None:
    """What the job was given. Not through the loader: that would put tweaks into the payload, and stop streams."""
    apply_run_defaults(graph, session_id=start.session_id, user_id=start.user_id)
    process_tweaks_on_graph(graph, start.tweaks)
    if start.input_value:
        graph._set_inputs([], {INPUT_FIELD_NAME: start.input_value}, "chat")
    graph.context["no_env_fallback"] = True  # else a field that loads from a variable reads the environment
    activate_no_env_fallback(disabled=True)
    activate_request_variables(start.globals)
    apply_global_vars_to_graph(graph, start.globals)


def _fold(saved: dict[str, Any], done: list[Finished], decisions: dict[str, dict[str, Any]]) -> None:
    """Say in a checkpoint of the fresh graph what the journal says."""
    for step in done:
        entry = step.entry
        saved.update(entry.branches)
        saved["vertex_results"][step.component].update(built=True, built_object=None if entry.kept is None else _WHOLE)
        for component, state in entry.states.items():
            saved["vertex_results"][component]["state"] = state
    saved["human_input_decisions"] = {**saved["human_input_decisions"], **decisions}


def _put_back(graph: Any, done: list[Finished]) -> None:
    for step in done:
        if step.entry.kept is not None:
            vertex = graph.get_vertex(step.component)
            vertex.built_object = {name: decode(wire) for name, wire in step.entry.kept.items()}
            vertex.results = dict(vertex.built_object)
