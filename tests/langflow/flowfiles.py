"""Small Langflow flow files, in the shape of the editor's export, made from the installed lfx.

Their component templates come from the index that lfx brings along, so they carry lfx's own source code: they are made
where they are needed and never kept. lfx is only located, not imported.
"""

import copy
import importlib.util
import json
from functools import cache
from pathlib import Path
from typing import Any, Final

Node = dict[str, Any]  # of a flow file: any JSON

SLEEPER: Final = """
import asyncio, os, time
from lfx.custom import Component
from lfx.io import FloatInput, MessageTextInput, Output, SecretStrInput
from lfx.schema.message import Message


class Sleeper(Component):
    display_name = "Sleeper"
    name = "Sleeper"
    inputs = [
        MessageTextInput(name="text", display_name="Text"),
        MessageTextInput(name="text2", display_name="Text2"),
        FloatInput(name="seconds", display_name="Seconds", value=3),
        MessageTextInput(name="logfile", display_name="Log file", value=""),
        MessageTextInput(name="boom", display_name="Boom", value=""),
        SecretStrInput(name="secret", display_name="Secret", value="", load_from_db=True),
    ]
    outputs = [Output(display_name="Message", name="message", method="run_it")]

    def note(self, what):
        if self.logfile:
            with open(self.logfile, "a") as f:
                f.write(f"{self._id} {what} {os.getpid()} {time.time():.2f}\\n")

    async def run_it(self) -> Message:
        self.note("start")
        await asyncio.sleep(self.seconds)
        if self.boom:
            raise ValueError(self.boom)
        self.note("end")
        secret = self.secret.get_secret_value() if hasattr(self.secret, "get_secret_value") else self.secret
        secret = f":{secret}" if secret else ""
        return Message(text=f"slept:{self.text}{secret}")
"""


@cache
def templates() -> dict[str, Node]:
    """Component name -> node template, from the index inside the installed lfx."""
    spec = importlib.util.find_spec("lfx")
    assert spec is not None, "lfx is not installed"
    assert spec.submodule_search_locations is not None, "a package"
    index = json.loads((Path(spec.submodule_search_locations[0]) / "_assets/component_index.json").read_text())
    return {name: t for _category, components in index["entries"] for name, t in components.items()}


def place(kind: str, node_id: str, node: Node) -> Node:
    return {
        "id": node_id,
        "type": "genericNode",
        "position": {"x": 0, "y": 0},
        "data": {"id": node_id, "type": kind, "node": node, "showNode": True},
    }


def node(kind: str, node_id: str, **values: Any) -> Node:
    """A node of a bundled component, with some of its fields set."""
    t = copy.deepcopy(templates()[kind])
    for field, value in values.items():
        t["template"][field]["value"] = value
        if field == "timeout":  # the editor shows it together with enable_fallback; hidden fields are not passed on
            t["template"][field]["show"] = True
    if kind == "HumanInput":
        labels = [*values.get("decisions", ["Approve", "Reject"])]
        labels += ["Fallback"] if values.get("enable_fallback") else []
        shape = t["outputs"][0]
        t["outputs"] = [
            {**copy.deepcopy(shape), "display_name": s, "name": "branch_" + s.strip().lower().replace(" ", "_")}
            for s in labels
        ]
    return place(kind, node_id, t)


def sleeper(
    node_id: str,
    *,
    seconds: float,
    log: str = "",
    boom: str = "",
    secret: str = "",
    source: str = SLEEPER,
    takes: str = "Message",
    gives: str = "Message",
) -> Node:
    """A custom component: its whole source travels in the node, as with any component edited in the UI."""
    base = copy.deepcopy(templates()["ChatInput"]["template"]["input_value"])

    def field(name: str, kind: str, value: Any, inputs: list[str], **more: Any) -> Node:
        return {
            **base,
            "name": name,
            "display_name": name.title(),
            "type": kind,
            "value": value,
            "input_types": inputs,
            "_input_type": {"float": "FloatInput"}.get(kind, "MessageTextInput"),
            "multiline": False,
            **more,
        }

    code = {
        "type": "code",
        "value": source,
        "name": "code",
        "show": True,
        "required": True,
        "advanced": True,
        "dynamic": True,
        "multiline": True,
        "placeholder": "",
        "password": False,
        "list": False,
        "fileTypes": [],
        "file_path": "",
        "load_from_db": False,
        "title_case": False,
        "info": "",
    }
    template = {
        "_type": "Component",
        "code": code,
        "text": field("text", "str" if takes == "Message" else "other", "", [takes]),
        "text2": field("text2", "str", "", ["Message"]),
        "seconds": field("seconds", "float", seconds, []),
        "logfile": field("logfile", "str", log, ["Message"]),
        "boom": field("boom", "str", boom, ["Message"]),
        "secret": field("secret", "str", secret, [], _input_type="SecretStrInput", password=True, load_from_db=True),
    }
    out = {
        "types": [gives],
        "selected": gives,
        "name": "message",
        "display_name": "Message",
        "method": "run_it",
        "value": "__UNDEFINED__",
        "cache": True,
        "allows_loop": False,
        "tool_mode": True,
    }
    return place(
        "Sleeper",
        node_id,
        {
            "template": template,
            "outputs": [out],
            "field_order": list(template)[2:],
            "base_classes": [gives],
            "display_name": "Sleeper",
            "description": "",
            "documentation": "",
            "icon": "clock",
            "minimized": False,
            "custom_fields": {},
            "output_types": [],
            "pinned": False,
            "conditional_paths": [],
            "frozen": False,
            "beta": False,
            "legacy": False,
            "edited": True,
            "metadata": {},
            "tool_mode": False,
        },
    )


def handle(h: Node) -> str:
    """Langflow writes a handle as JSON with a ligature in place of each quote."""
    return json.dumps(h, separators=(",", ":")).replace('"', "œ")


def edge(src: Node, output: str, dst: Node, field: str) -> Node:
    out = next(o for o in src["data"]["node"]["outputs"] if o["name"] == output)
    f = dst["data"]["node"]["template"][field]
    sh = {"dataType": src["data"]["type"], "id": src["id"], "name": output, "output_types": out["types"]}
    th = {"fieldName": field, "id": dst["id"], "inputTypes": f.get("input_types") or [], "type": f["type"]}
    return {
        "id": f"xy-edge__{src['id']}{handle(sh)}-{dst['id']}{handle(th)}",
        "source": src["id"],
        "target": dst["id"],
        "sourceHandle": handle(sh),
        "targetHandle": handle(th),
        "data": {"sourceHandle": sh, "targetHandle": th},
    }


def back_edge(src: Node, output: str, loop: Node, item: str) -> Node:
    """The edge that ends a loop's body: it leads to an output of the loop component."""
    out = next(o for o in src["data"]["node"]["outputs"] if o["name"] == output)
    target = next(o for o in loop["data"]["node"]["outputs"] if o["name"] == item)
    sh = {"dataType": src["data"]["type"], "id": src["id"], "name": output, "output_types": out["types"]}
    th = {
        "dataType": loop["data"]["type"],
        "id": loop["id"],
        "name": item,
        "output_types": [*target["types"], "Message"],
    }
    return {
        "id": f"xy-edge__{src['id']}{handle(sh)}-{loop['id']}{handle(th)}",
        "source": src["id"],
        "target": loop["id"],
        "sourceHandle": handle(sh),
        "targetHandle": handle(th),
        "data": {"sourceHandle": sh, "targetHandle": th},
    }


def flows(log: str = "", seconds: float = 3) -> dict[str, Node]:
    """Name -> flow, ready to post to /api/v1/flows/ or to hand to lfx."""

    def chat_in() -> Node:
        return node("ChatInput", "ChatInput-in001")

    def out(node_id: str) -> Node:
        return node("ChatOutput", node_id)

    def slow(node_id: str, **more: Any) -> Node:
        return sleeper(node_id, seconds=seconds, log=log, **more)

    def gate(node_id: str = "HumanInput-gate1", **more: Any) -> Node:
        return node("HumanInput", node_id, **more)

    def flow(name: str, description: str, nodes: list[Node], edges: list[Node]) -> Node:
        return {
            "name": name,
            "description": description,
            "is_component": False,
            "endpoint_name": None,
            "tags": [],
            "last_tested_version": "1.13.0",
            "data": {"nodes": nodes, "edges": edges, "viewport": {"x": 0, "y": 0, "zoom": 1}},
        }

    def branches(g: Node, **targets: Node) -> list[Node]:
        return [
            edge(g, f"branch_{action}", t, "text" if t["data"]["type"] == "Sleeper" else "input_value")
            for action, t in targets.items()
        ]

    made = []
    ci, co = chat_in(), out("ChatOutput-out01")
    made.append(flow("echo", "chat input to chat output", [ci, co], [edge(ci, "message", co, "input_value")]))

    ci, g, ok, no = chat_in(), gate(), out("ChatOutput-ok001"), out("ChatOutput-no001")
    made.append(
        flow(
            "hitl_minimal",
            "one gate, one output per branch",
            [ci, g, ok, no],
            [edge(ci, "message", g, "prompt"), *branches(g, approve=ok, reject=no)],
        )
    )

    ci, g, g2 = chat_in(), gate(), gate("HumanInput-gate2", decisions=["Ship", "Hold"])
    ship, hold, no = out("ChatOutput-ship1"), out("ChatOutput-hold1"), out("ChatOutput-no001")
    made.append(
        flow(
            "hitl_two_gates",
            "two gates, one after the other",
            [ci, g, g2, ship, hold, no],
            [
                edge(ci, "message", g, "prompt"),
                edge(g, "branch_approve", g2, "prompt"),
                *branches(g, reject=no),
                *branches(g2, ship=ship, hold=hold),
            ],
        )
    )

    ci, g = chat_in(), gate(enable_fallback=True, timeout={"value": 1, "unit": "Minutes"})
    ok, no, fb = out("ChatOutput-ok001"), out("ChatOutput-no001"), out("ChatOutput-fb001")
    made.append(
        flow(
            "hitl_fallback",
            "a gate with a fallback branch and a deadline of a minute",
            [ci, g, ok, no, fb],
            [edge(ci, "message", g, "prompt"), *branches(g, approve=ok, reject=no, fallback=fb)],
        )
    )

    ci, s1, g, s2 = chat_in(), slow("Sleeper-slow1"), gate(), slow("Sleeper-slow2")
    ok, no = out("ChatOutput-ok001"), out("ChatOutput-no001")
    made.append(
        flow(
            "hitl_slow",
            "slow step, gate, slow step",
            [ci, s1, g, s2, ok, no],
            [
                edge(ci, "message", s1, "text"),
                edge(s1, "message", g, "prompt"),
                *branches(g, approve=s2, reject=no),
                edge(s2, "message", ok, "input_value"),
            ],
        )
    )

    ci, s1, g = chat_in(), slow("Sleeper-side1"), gate()
    ok, no, side = out("ChatOutput-ok001"), out("ChatOutput-no001"), out("ChatOutput-side1")
    made.append(
        flow(
            "hitl_parallel",
            "a gate beside a slow step",
            [ci, s1, g, ok, no, side],
            [
                edge(ci, "message", s1, "text"),
                edge(ci, "message", g, "prompt"),
                edge(s1, "message", side, "input_value"),
                *branches(g, approve=ok, reject=no),
            ],
        )
    )

    ci, g, g2 = chat_in(), gate(), gate("HumanInput-gate2")
    o = [out(f"ChatOutput-{n}") for n in ("ok001", "no001", "ok002", "no002")]
    made.append(
        flow(
            "hitl_two_parallel_gates",
            "two gates in the same layer",
            [ci, g, g2, *o],
            [
                edge(ci, "message", g, "prompt"),
                edge(ci, "message", g2, "prompt"),
                *branches(g, approve=o[0], reject=o[1]),
                *branches(g2, approve=o[2], reject=o[3]),
            ],
        )
    )

    ci, s1, s2, co = chat_in(), slow("Sleeper-slow1"), slow("Sleeper-slow2"), out("ChatOutput-out01")
    made.append(
        flow(
            "two_slow_steps",
            "two slow steps, one after the other",
            [ci, s1, s2, co],
            [edge(ci, "message", s1, "text"), edge(s1, "message", s2, "text"), edge(s2, "message", co, "input_value")],
        )
    )

    ci, fast, s1 = chat_in(), sleeper("Sleeper-fast1", seconds=0, log=log), slow("Sleeper-slow1")
    join, after = sleeper("Sleeper-join1", seconds=0, log=log), sleeper("Sleeper-after", seconds=0, log=log)
    co, co2 = out("ChatOutput-out01"), out("ChatOutput-out02")
    made.append(
        flow(
            "diamond",
            "a fast and a slow step in one layer, joined; the fast one also feeds a third",
            [ci, fast, s1, join, after, co, co2],
            [
                edge(ci, "message", fast, "text"),
                edge(ci, "message", s1, "text"),
                edge(fast, "message", join, "text"),
                edge(s1, "message", join, "text2"),
                edge(fast, "message", after, "text"),
                edge(join, "message", co, "input_value"),
                edge(after, "message", co2, "input_value"),
            ],
        )
    )

    ci, r = chat_in(), node("ConditionalRouter", "ConditionalRouter-r0001", match_text="yes", operator="equals")
    yes, no = out("ChatOutput-yes01"), out("ChatOutput-no001")
    made.append(
        flow(
            "router",
            "the input 'yes' takes one branch, anything else the other",
            [ci, r, yes, no],
            [
                edge(ci, "message", r, "input_text"),
                edge(r, "true_result", yes, "input_value"),
                edge(r, "false_result", no, "input_value"),
            ],
        )
    )

    ci, bad, co = chat_in(), sleeper("Sleeper-bad01", seconds=0, log=log, boom="boom"), out("ChatOutput-out01")
    made.append(
        flow(
            "failing",
            "a component that raises",
            [ci, bad, co],
            [edge(ci, "message", bad, "text"), edge(bad, "message", co, "input_value")],
        )
    )

    ci, g, s1 = chat_in(), gate(), sleeper("Sleeper-s0001", seconds=0, log=log, secret="MY_KEY")
    ok, no = out("ChatOutput-ok001"), out("ChatOutput-no001")
    made.append(
        flow(
            "secret_after_gate",
            "a step behind the gate reads the variable MY_KEY",
            [ci, g, s1, ok, no],
            [
                edge(ci, "message", g, "prompt"),
                *branches(g, approve=s1, reject=no),
                edge(s1, "message", ok, "input_value"),
            ],
        )
    )

    ci, g, co = chat_in(), gate(), out("ChatOutput-out01")
    s1, s2, join = (sleeper(f"Sleeper-{n}", seconds=0, log=log) for n in ("yes01", "no001", "join1"))
    made.append(
        flow(
            "gate_join",
            "both branches of a gate lead to the same step",
            [ci, g, s1, s2, join, co],
            [
                edge(ci, "message", g, "prompt"),
                *branches(g, approve=s1, reject=s2),
                edge(s1, "message", join, "text"),
                edge(s2, "message", join, "text2"),
                edge(join, "message", co, "input_value"),
            ],
        )
    )

    for name, gated in (("loop", False), ("loop_with_gate", True)):
        ci, split = chat_in(), node("SplitText", "SplitText-s0001", separator=",", chunk_size=1, chunk_overlap=0)
        loop, body = node("LoopComponent", "LoopComponent-l0001"), sleeper("Sleeper-body1", seconds=0, log=log)
        item, join = (node("ParserComponent", f"ParserComponent-{n}", pattern="{text}") for n in ("item1", "all01"))
        co, nodes = out("ChatOutput-out01"), [ci, split, loop, item, body, join]
        edges = [
            edge(ci, "message", split, "data_inputs"),
            edge(split, "dataframe", loop, "data"),
            edge(loop, "item", item, "input_data"),
            back_edge(body, "message", loop, "item"),
            edge(loop, "done", join, "input_data"),
            edge(join, "parsed_text", co, "input_value"),
        ]
        if gated:
            g, no = gate(), sleeper("Sleeper-no001", seconds=0, log=log)
            nodes += [g, no]
            edges += [edge(item, "parsed_text", g, "prompt"), *branches(g, approve=body, reject=no)]
        else:
            edges.append(edge(item, "parsed_text", body, "text"))
        made.append(
            flow(
                name,
                "a loop over the input, split at commas" + (", with a gate in its body" * gated),
                [*nodes, co],
                edges,
            )
        )
    return {f["name"]: f for f in made}


def source_of(
    body: str,
    imports: str = "",
    *,
    returns: str = "Message",
    field: str = 'MessageTextInput(name="text", display_name="Text")',
) -> str:
    """The source of a component. `body` are lines that may set `text`, its input before, or return."""
    lines = "\n".join("        " + line for line in body.splitlines())
    return f"""{imports}
from lfx.custom import Component
from lfx.io import MessageTextInput, Output
from lfx.schema.message import Message


class Custom(Component):
    display_name = "Custom"
    name = "Sleeper"
    inputs = [{field}]
    outputs = [Output(display_name="Message", name="message", method="run_it")]

    async def run_it(self) -> {returns}:
        text = self.text
{lines}
        return Message(text=str(text))
"""


def custom(body: str, imports: str = "") -> Node:
    """Chat input to a component of one's own to chat output."""
    ci, co = node("ChatInput", "ChatInput-in001"), node("ChatOutput", "ChatOutput-out01")
    own = sleeper("Sleeper-own01", seconds=0, source=source_of(body, imports))
    edges = [edge(ci, "message", own, "text"), edge(own, "message", co, "input_value")]
    return {"name": "custom", "data": {"nodes": [ci, own, co], "edges": edges, "viewport": {"x": 0, "y": 0, "zoom": 1}}}
