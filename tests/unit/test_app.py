"""Loading `--app`: what a module offers, its digest, its schemas, and the modules that a start refuses."""

import importlib
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from perdure.core.schema import faults
from perdure.engine.app import AppRefused, load_apps, load_components
from perdure.ids import Digest

Write = Callable[[str, str], None]

SHOP = '''
import dataclasses
from typing import Annotated, Literal

import msgspec
import pydantic

from perdure import Context, workflow


class Line(msgspec.Struct):
    sku: str
    count: Annotated[int, msgspec.Meta(ge=1)] = 1


class Address(pydantic.BaseModel):
    street: str


class Customer(pydantic.BaseModel):
    name: str
    address: Address


@dataclasses.dataclass
class Both:
    line: Line
    customer: Customer


@workflow
async def order(ctx: Context, line: Line) -> list[str]:
    """Take an order.

    In two paragraphs.
    """
    return []


@workflow(name="shop.customer")
async def customer(ctx: Context, who: Customer) -> Customer:
    return who


@workflow
async def both(ctx: Context, given: Both) -> None: ...


@workflow
async def free(ctx: Context, given): ...


@workflow
async def nothing(ctx: Context) -> Literal["done"]:
    return "done"
'''


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Write a module into the current folder, which is the test's own; nothing of it stays imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    for name in list(sys.modules):
        if name.startswith("their_"):
            monkeypatch.delitem(sys.modules, name)

    def put(name: str, text: str) -> None:
        (tmp_path / f"{name}.py").write_text(text)
        importlib.invalidate_caches()
        sys.modules.pop(name, None)

    return put


def test_the_current_folder_s_module_offers_its_workflows(write: Write) -> None:
    write("their_shop", SHOP)
    flows = load_apps(["their_shop"])
    assert set(flows) == {"order", "shop.customer", "both", "free", "nothing"}
    digest = Digest(sha256(SHOP.encode()).hexdigest())
    assert {flow.digest for flow in flows.values()} == {digest}
    assert {flow.workflow.digest for flow in flows.values()} == {digest}
    assert {flow.module for flow in flows.values()} == {"their_shop"}
    assert flows["order"].description == "Take an order.\n\nIn two paragraphs."
    assert flows["free"].description is None


def test_schemas_say_what_the_annotations_say(write: Write) -> None:
    write("their_shop", SHOP)
    flows = load_apps(["their_shop"])

    def bad(flow: str, value: object) -> list[tuple[str, str | None]]:
        schema = flows[flow].input_schema
        assert schema is not None
        return [(f.code, f.pointer) for f in faults(schema, value, "/input")]

    assert bad("order", {"sku": "a"}) == []
    assert sorted(bad("order", {"count": 0})) == [("minimum", "/input/count"), ("required", "/input/sku")]
    assert bad("order", "a") == [("type", "/input")]
    assert bad("shop.customer", {"name": "Ann", "address": {"street": "Long"}}) == []
    assert bad("shop.customer", {"name": "Ann", "address": {}}) == [("required", "/input/address/street")]
    nested = {"line": {"sku": "a"}, "customer": {"name": "Ann", "address": {"street": 1}}}
    assert bad("both", nested) == [("type", "/input/customer/address/street")]
    assert bad("nothing", None) == []
    assert bad("nothing", "x") == [("type", "/input")]
    assert flows["free"].input_schema is None
    assert flows["free"].output_schema is None
    assert flows["nothing"].output_schema == {"enum": ["done"]}
    assert flows["order"].output_schema == {"type": "array", "items": {"type": "string"}}


def test_a_workflow_that_is_imported_has_the_digest_of_the_module_that_defines_it(write: Write) -> None:
    write("their_shop", SHOP)
    write("their_front", "from their_shop import order\nFRONT = 1\n")
    flows = load_apps(["their_front", "their_shop"])
    assert flows["order"].module == "their_shop"
    assert flows["order"].digest == Digest(sha256(SHOP.encode()).hexdigest())


def test_the_digest_follows_the_source(write: Write) -> None:
    write("their_shop", SHOP)
    before = load_apps(["their_shop"])["order"].digest
    write("their_shop", SHOP + "\n# another word\n")
    assert load_apps(["their_shop"])["order"].digest != before


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (None, "their_app does not import: ModuleNotFoundError: No module named 'their_app'"),
        ("import no_such_thing_at_all", "does not import: ModuleNotFoundError"),
        ("def broken(:", "does not import: SyntaxError"),
        ("1 / 0", "does not import: ZeroDivisionError"),
        ("import sys; sys.exit(3)", "does not import: SystemExit"),
        ("from perdure import workflow\n@workflow\ndef sync(ctx): ...", "a workflow is an async function"),
        ("x = 1", "their_app holds no workflow and no component"),
        ("from perdure import workflow\n@workflow(name='A B')\nasync def f(ctx): ...", "cannot be called"),
        (
            "from perdure import workflow\nclass Own: ...\n@workflow\nasync def f(ctx, given: Own): ...",
            "the input of f is annotated with",
        ),
        (
            "from perdure import workflow\n@workflow(name='f')\nasync def a(ctx): ...\n"
            "@workflow(name='f')\nasync def b(ctx): ...",
            "two workflows",
        ),
    ],
)
def test_a_module_that_cannot_be_run_is_refused_by_name(write: Write, text: str | None, told: str) -> None:
    if text is not None:
        write("their_app", text)
    with pytest.raises(AppRefused, match="--app") as caught:
        load_apps(["their_app"])
    assert told in str(caught.value)


def test_two_modules_may_not_define_one_name(write: Write) -> None:
    text = "from perdure import workflow\n@workflow\nasync def f(ctx): ...\n"
    write("their_one", text)
    write("their_two", text)
    with pytest.raises(AppRefused, match="their_one and their_two both define a workflow f"):
        load_apps(["their_one", "their_two"])


def test_the_example_is_an_app(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(Path(__file__).resolve().parents[2] / "examples")
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "app", raising=False)
    flows = load_apps(["app"])
    assert set(flows) == {"purchase", "greeting"}
    sys.modules.pop("app", None)


COMPONENTS = "from perdure import component\n@component\ndef shorten(text: str) -> str: ...\n"


def test_a_module_of_components_is_an_app_without_flows(write: Write) -> None:
    write("their_parts", COMPONENTS)
    assert load_apps(["their_parts"]) == {}
    assert list(load_components(["their_parts"])) == ["shorten"]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (COMPONENTS, "two components are called shorten"),
        (COMPONENTS.replace("shorten", "template"), "there is a component template already"),
        (COMPONENTS + "other = component(name='shorten')(lambda text: text)\n", "two components of"),
    ],
)
def test_components_that_cannot_be_told_apart_are_refused(write: Write, text: str, told: str) -> None:
    write("their_parts", COMPONENTS)
    write("their_others", text)
    with pytest.raises(AppRefused, match=told):
        load_apps(["their_parts", "their_others"]) or load_components(["their_parts", "their_others"])
