"""What docs/architecture.md says of imports and modules holds."""

import ast
import re
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import fgit

PACKAGE = Path(fgit.__file__).parent
PAGE = PACKAGE.parents[1] / "docs" / "architecture.md"
LONGEST = 600  # lines of a module


def modules():
    """Every module's name -> its file."""
    found = {}
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imports(file, known):
    """The modules of the package that a module imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in known)
        elif isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "fgit":
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in known else node.module


@pytest.fixture(scope="module")
def graph():
    known = modules()
    return {name: set(imports(file, known)) - {"fgit"} for name, file in known.items()}


def layers():
    """The rooms of each layer, from the top, as the page's table has them."""
    rows = re.findall(r"^\| [a-z ]+ \| (`.+`) \|$", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    assert rows
    return [re.findall(r"`(\w+)`", row) for row in rows]


def room_of(module):
    return module.split(".")[1] if "." in module else module


def test_every_room_has_its_layer_once(graph):
    named = [room for layer in layers() for room in layer]
    assert sorted(named) == sorted({room_of(name) for name in graph} - {"fgit", "__main__"})


def test_imports_go_down(graph):
    depth = {room: number for number, layer in enumerate(layers()) for room in layer}
    upwards = [
        f"{name} imports {imported}"
        for name, found in graph.items()
        if room_of(name) in depth
        for imported in found
        if depth[room_of(imported)] < depth[room_of(name)]
    ]
    assert not upwards


def test_no_imports_in_a_circle(graph):
    list(TopologicalSorter(graph).static_order())  # names the circle if there is one


def test_the_page_names_files_that_are_there():
    named = re.findall(r"`([a-z_/]+\.py)`", PAGE.read_text(encoding="utf-8"))
    files = [f"/{file.relative_to(PACKAGE).as_posix()}" for file in modules().values()]
    files.append("/tests/unit/test_architecture.py")
    assert [name for name in named if not any(file.endswith(f"/{name}") for file in files)] == []


def test_no_module_is_too_long():
    lengths = {
        file.relative_to(PACKAGE).as_posix(): len(file.read_text(encoding="utf-8").splitlines())
        for file in modules().values()
    }
    assert {name: n for name, n in lengths.items() if n > LONGEST} == {}
