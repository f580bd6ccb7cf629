"""The rules of docs/architecture.md, read off the sources: order of the rooms, leaves, torch, writing, printing."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from bitfront.catalog import CATALOG

ROOT = Path(__file__).resolve().parents[2]
SOURCE = ROOT / "src" / "bitfront"
LEAVES = ("tasks", "data", "models", "runtimes", "devices", "objectives", "trackers")
MAX_LINES = 450
REFUSED_NAMES = {"utils", "util", "helpers", "helper", "common", "misc"}
FRONT_DOOR = {"", "__main__"}  # bitfront/__init__.py and __main__.py: the public names, lazily


def rooms() -> list[tuple[str, str]]:
    """(room, torch column) in order, from the table of the page."""
    text = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
    table = text.partition("## The rooms, in order")[2].partition("Leaves:")[0]
    found = []
    for row in re.findall(r"^\| (`.+?) \|.*\| (.+?) \|$", table, flags=re.M):
        found += [(name, row[1].strip()) for name in re.findall(r"`([\w.]+)`", row[0])]
    return found


ROOMS = rooms()
ORDER = {name: position for position, (name, _) in enumerate(ROOMS)}
TORCH = dict(ROOMS)


@dataclass(frozen=True)
class Import:
    module: str
    line: int
    in_function: bool


@dataclass(frozen=True)
class Source:
    name: str  # dotted, without "bitfront."
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        parts = self.name.split(".")
        return next((p for n in range(len(parts), 0, -1) if (p := ".".join(parts[:n])) in ORDER), "")

    @property
    def is_package_mark(self) -> bool:
        return self.path.name == "__init__.py" and not self.room

    @property
    def leaf(self) -> str:
        kind = self.name.partition(".")[0]
        return kind if kind in LEAVES else ""

    def imports(self) -> Iterator[Import]:
        yield from _imports(self.tree.body, self.name, False)


def _imports(body: list[ast.stmt], name: str, in_function: bool) -> Iterator[Import]:
    for node in body:
        if isinstance(node, ast.Import):
            yield from (Import(a.name, node.lineno, in_function) for a in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name}:{node.lineno}: relative import"
            yield Import(node.module or "", node.lineno, in_function)
            yield from (Import(f"{node.module}.{a.name}", node.lineno, in_function) for a in node.names)
        elif isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING"):
            yield from _imports(node.orelse, name, in_function)
        else:
            inside = in_function or isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))
            children = [
                c for c in ast.iter_child_nodes(node) if isinstance(c, (ast.stmt, ast.ExceptHandler, ast.match_case))
            ]
            yield from _imports(children, name, inside)  # type: ignore[arg-type]


def sources() -> list[Source]:
    found = []
    for path in sorted(SOURCE.rglob("*.py")):
        parts = path.relative_to(SOURCE).with_suffix("").parts
        name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
        found.append(Source(name, path, ast.parse(path.read_text(encoding="utf-8"))))
    return found


SOURCES = sources()
EACH = pytest.mark.parametrize("source", SOURCES, ids=lambda s: s.name or "bitfront")
MODULES = {s.name for s in SOURCES}
PLUGINS = {line.removeprefix("bitfront.").partition(":")[0] for line in CATALOG.values()}


def own(module: str) -> str | None:
    """The module of ours that an imported name means; ``None`` for other packages' names."""
    if module != "bitfront" and not module.startswith("bitfront."):
        return None
    name = module.removeprefix("bitfront").removeprefix(".")
    while name not in MODULES:
        name = name.rpartition(".")[0]
    return name


def room_of(name: str) -> str:
    parts = name.split(".")
    return next((p for n in range(len(parts), 0, -1) if (p := ".".join(parts[:n])) in ORDER), "")


def test_the_page_names_every_room_once() -> None:
    assert len(ROOMS) == len(ORDER) >= 20
    assert all(torch in ("no", "yes", "inside functions") for _, torch in ROOMS)


@EACH
def test_every_module_has_a_place(source: Source) -> None:
    assert source.room or source.leaf or source.is_package_mark or source.name in FRONT_DOOR, (
        f"{source.name} stands in no row of docs/architecture.md"
    )


@EACH
def test_a_room_imports_only_what_stands_before_it(source: Source) -> None:
    if not source.room:
        return
    for found in source.imports():
        name = own(found.module)
        if not name or room_of(name) == source.room:
            continue
        where = f"{source.name}:{found.line} imports {found.module}"
        assert name.partition(".")[0] not in LEAVES, f"{where}: leaves are found by name, through the registry"
        room = room_of(name)
        if room:
            assert ORDER[room] < ORDER[source.room], f"{where}: {room} stands after {source.room}"


@EACH
def test_leaves_are_strangers(source: Source) -> None:
    if not source.leaf:
        return
    last = ORDER["measure.verify"]
    for found in source.imports():
        name = own(found.module)
        if not name or name == source.leaf:
            continue
        where = f"{source.name}:{found.line} imports {found.module}"
        if name.partition(".")[0] in LEAVES:
            assert name.partition(".")[0] == source.leaf, f"{where}: another kind of leaf"
            assert name not in PLUGINS, f"{where}: another plug-in"
        elif room_of(name):
            assert ORDER[room_of(name)] <= last, f"{where}: a leaf sees the core up to measure"


@EACH
def test_torch_only_where_the_page_says(source: Source) -> None:
    allowed = "yes" if source.leaf == "models" else TORCH.get(source.room, "inside functions" if source.leaf else "no")
    for found in source.imports():
        if found.module.partition(".")[0] in ("torch", "torchvision"):
            where = f"{source.name}:{found.line}"
            assert allowed != "no", f"{where}: torch is not allowed in {source.room}"
            assert allowed == "yes" or found.in_function, f"{where}: import torch inside the function"


@EACH
def test_names_and_length(source: Source) -> None:
    assert not REFUSED_NAMES & set(source.name.split(".")), f"{source.name}: say what it holds"
    n_lines = len(source.path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= MAX_LINES, f"{source.name} has {n_lines} lines, {MAX_LINES} are allowed"


def _text(node: ast.AST) -> str:
    return ast.unparse(node)


@EACH
def test_only_cli_prints_and_reads_the_environment(source: Source) -> None:
    if source.room == "cli":
        return
    for node in ast.walk(source.tree):
        where = f"{source.name}:{getattr(node, 'lineno', 0)}"
        if isinstance(node, ast.Call):
            assert _text(node.func) not in ("print", "input", "os.getenv"), f"{where}: {_text(node.func)}()"
        if isinstance(node, (ast.Attribute, ast.Name)):
            assert _text(node) not in ("os.environ", "environ", "sys.stdout", "sys.stderr", "sys.argv"), (
                f"{where}: {_text(node)}"
            )


WRITERS = re.compile(
    r"(json|pickle|marshal)\.(dump|dumps|load|loads)|torch\.save|onnx\.save(_model)?|(np|numpy)\.save\w*|save_(file|model)"
    r"|shutil\.(copy\w*|move)|.*\.(write_text|write_bytes|save_file)"
)
READS_JSON = {"json.dumps", "json.loads", "json.load"}


@EACH
def test_only_store_writes_files(source: Source) -> None:
    if source.room == "store":
        return
    for node in ast.walk(source.tree):
        if not isinstance(node, ast.Call):
            continue
        where = f"{source.name}:{node.lineno}: use store.atomic_write instead of {_text(node.func)}"
        name = _text(node.func)
        assert name in READS_JSON or not WRITERS.fullmatch(name), where
        if name == "open" or name.endswith(".open"):
            modes = [a.value for a in [*node.args, *(k.value for k in node.keywords)] if isinstance(a, ast.Constant)]
            assert not any(isinstance(m, str) and re.fullmatch(r"[rwaxbt+]*[wax+][rwaxbt+]*", m) for m in modes), where


@EACH
def test_no_state_in_modules_and_no_pickle(source: Source) -> None:
    for found in source.imports():
        assert found.module.partition(".")[0] not in ("pickle", "dill", "cloudpickle", "yaml", "random"), (
            f"{source.name}:{found.line} imports {found.module}"
        )
    for node in ast.walk(source.tree):
        assert not isinstance(node, ast.Global), f"{source.name}: module state"


def run(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)


HEAVY = "('torch', 'onnx', 'onnxruntime', 'matplotlib', 'plotly', 'numpy', 'pydantic', 'PIL')"


def test_importing_the_command_line_is_light() -> None:
    done = run(f"import sys, bitfront, bitfront.cli; print([m for m in {HEAVY} if m in sys.modules])")
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_help_is_light() -> None:
    call = "import sys; from bitfront.cli import main; code = main(['--help'])"
    done = run(f"{call}; print(code, [m for m in {HEAVY} if m in sys.modules])")
    assert done.stdout.strip().endswith("0 []"), done.stdout[-300:] + done.stderr


def test_list_works_without_torch() -> None:
    call = "from bitfront.cli import main; sys.exit(main(['list', 'models', '--json']))"
    done = run(f"import sys; sys.modules['torch'] = None; {call}")
    assert done.returncode == 0, done.stderr
    assert "fast_scnn" in done.stdout
