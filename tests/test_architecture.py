"""Who may import whom, who may read a clock, how long a module may be: read from syntax trees, for every module.

The table is the drawing of the house: an arrow means "may import, with what lies behind it".
"""

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
SOURCES: Final = (
    ROOT / "shared" / "perdure",
    ROOT / "services" / "gateway" / "perdure_gateway",
    ROOT / "services" / "runner" / "perdure_runner",
    ROOT / "services" / "sweeper" / "perdure_sweeper",
)
ARROWS: Final[dict[str, set[str]]] = {
    "gateway": {"jobs", "db"},
    "sweeper": {"jobs", "db"},
    "runner": {"jobs", "engine"},
    "jobs": {"bus", "core"},
    "engine": {"core"},
    "bus": {"core"},
    "db": {"core"},
    "core": set(),
    "client": {"core"},
    "cli": {"client", "local", "db"},
    "local": {"bus", "db", "core"},
    "testing": {"local", "client", "jobs", "db", "engine"},
}
ALSO: Final = {"cli": {"testing.chatmodel"}}  # one module of a package that is closed otherwise
OPEN_TO_ALL: Final = {"errors", "ids"}
# `core` is pure: it knows none of the other top modules. They know what each of them needs of it.
TOP: Final = {"clock", "config", "log", "probe", "seal", "service", "__init__"}
# `__init__`: the public names, loaded when used
OF_CORE: Final = {"clock": {"core"}, "__init__": {"core", "engine", "client"}}
PURE: Final = {
    "collections",
    "datetime",
    "enum",
    "functools",
    "hashlib",
    "itertools",
    "json",
    "math",
    "re",
    "typing",
    "msgspec",
}
CLOCKS: Final = {
    "time": {"time", "time_ns", "monotonic", "monotonic_ns", "perf_counter", "perf_counter_ns", "sleep"},
    "datetime": {"now", "utcnow", "today"},
    "date": {"today"},
    "asyncio": {"sleep"},
    "random": {"random", "randint", "choice", "uniform", "shuffle", "randrange", "sample"},
    "uuid": {"uuid1", "uuid4"},
}
# Longer than 300 lines, and why that is one module all the same.
LONG: Final = {
    "shared/perdure/core/event.py": "one closed union: the format of the log, read from top to bottom",
    "shared/perdure/db/schema.py": "every table, as the migrations leave them, read from top to bottom",
}
# Reads a clock or draws a number outside `clock.py`, and why.
READS: Final = {
    "shared/perdure/probe.py": "the odds of a failpoint: armed by tests alone",
}


def modules() -> Iterator[tuple[str, str, ast.Module, str]]:
    """Each module: path from the root, dotted name inside the house (`core.event`, `gateway.app`), tree, text."""
    for home in SOURCES:
        for file in sorted(home.rglob("*.py")):
            inside = file.relative_to(home).with_suffix("").as_posix().replace("/", ".").removesuffix(".__init__")
            name = inside if home.name == "perdure" else f"{home.name.removeprefix('perdure_')}.{inside}"
            text = file.read_text()
            yield file.relative_to(ROOT).as_posix(), name, ast.parse(text), text


MODULES: Final = list(modules())
IDS: Final = [path for path, _, _, _ in MODULES]


def house_name(imported: str) -> str | None:
    """`perdure.core.event` as `core.event`, `perdure_gateway.app` as `gateway.app`; None for what is not ours."""
    if imported == "perdure":
        return "__init__"
    if imported.startswith("perdure."):
        return imported.removeprefix("perdure.")
    if imported.startswith("perdure_"):
        return imported.removeprefix("perdure_")
    return None


def imports(tree: ast.Module) -> Iterator[tuple[str, int]]:
    """Every module of ours that `tree` imports anywhere, with its line; `from perdure.core import event` as both."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if (name := house_name(alias.name)) is not None:
                    yield name, node.lineno
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: a relative import"
            if (name := house_name(node.module or "")) is not None:
                for alias in node.names:
                    yield (alias.name if name == "__init__" else f"{name}.{alias.name}"), node.lineno


def behind(package: str) -> set[str]:
    """The packages that `package` may import, itself and what lies behind its arrows included."""
    found, todo = set[str](), [package]
    while todo:
        if (here := todo.pop()) not in found:
            found.add(here)
            todo += ARROWS[here]
    return found


@pytest.mark.parametrize(("path", "name", "tree", "text"), MODULES, ids=IDS)
def test_a_module_imports_only_what_its_package_may(path: str, name: str, tree: ast.Module, text: str) -> None:
    package = name.split(".")[0]
    found = []
    for imported, line in imports(tree):
        target = imported.split(".")[0]
        if target in OPEN_TO_ALL or target == package:
            continue
        if package in ARROWS:
            fits = target in behind(package) or (package != "core" and target in TOP | {"__version__"})
            fits = fits or any(imported.startswith(m) for m in ALSO.get(package, ()))
        else:
            assert package in TOP | OPEN_TO_ALL, f"{path}: a package that the drawing does not know"
            fits = target in TOP | OF_CORE.get(package, set())
        if not fits:
            found.append(f"{path}:{line} imports {imported}")
    assert found == []


@pytest.mark.parametrize(("path", "name", "tree", "text"), MODULES, ids=IDS)
def test_the_core_imports_nothing_but_the_standard_library_and_msgspec(
    path: str, name: str, tree: ast.Module, text: str
) -> None:
    if name.split(".")[0] != "core":
        return
    allowed = PURE | ({"jsonschema_rs"} if name == "core.schema" else set())
    foreign = set()
    for node in ast.walk(tree):
        names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        foreign |= {n for n in names if n.split(".")[0] not in allowed and house_name(n) is None}
    assert foreign == set()


@pytest.mark.parametrize(("path", "name", "tree", "text"), MODULES, ids=IDS)
def test_only_the_clock_reads_time_sleeps_or_draws(path: str, name: str, tree: ast.Module, text: str) -> None:
    if name == "clock" or path in READS or name.startswith("testing."):  # what waits for a server in tests may
        return
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module in CLOCKS:
            names = {alias.name for alias in node.names} & CLOCKS[node.module]
            found += [f"{path}:{node.lineno} imports {n} of {node.module}" for n in sorted(names - {"date"})]
        if isinstance(node, ast.Attribute):
            owner = node.value
            last = owner.attr if isinstance(owner, ast.Attribute) else owner.id if isinstance(owner, ast.Name) else ""
            if node.attr in CLOCKS.get(last, set()) and not yields_to_loop(node, tree):
                found.append(f"{path}:{node.lineno} uses {last}.{node.attr}")
    assert found == []


def yields_to_loop(attribute: ast.Attribute, tree: ast.Module) -> bool:
    """Whether this is the `asyncio.sleep` of `asyncio.sleep(0)`: a turn of the loop, which is no time."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and node.func is attribute:
            return attribute.attr == "sleep" and ast.unparse(node).endswith("sleep(0)")
    return False


@pytest.mark.parametrize(("path", "name", "tree", "text"), MODULES, ids=IDS)
def test_a_module_has_one_reason_to_change(path: str, name: str, tree: ast.Module, text: str) -> None:
    lines = text.count("\n")
    assert lines <= 300 or path in LONG, f"{path} has {lines} lines: split it, or say in LONG why it is one module"


def test_the_exceptions_are_needed() -> None:
    lengths = {path: text.count("\n") for path, _, _, text in MODULES}
    assert [p for p in LONG if lengths.get(p, 0) <= 300] == []
    assert [p for p in READS if p not in lengths] == []


def test_gateway_and_sweeper_contain_nothing_that_executes_what_comes_in() -> None:
    found = []
    for path, name, tree, _ in MODULES:
        if name.split(".")[0] not in ("gateway", "sweeper"):
            continue
        for node in ast.walk(tree):
            called = node.id if isinstance(node, ast.Name) else node.attr if isinstance(node, ast.Attribute) else ""
            if called in {"exec", "eval", "compile", "__import__", "import_module", "pickle"}:
                found.append(f"{path}:{getattr(node, 'lineno', 0)} {called}")
            if isinstance(node, ast.Import) and {a.name for a in node.names} & {"pickle", "marshal", "importlib"}:
                found.append(f"{path}:{node.lineno} import")
    assert [f for f in found if not f.endswith(" compile")] == []
