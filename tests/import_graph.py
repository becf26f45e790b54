"""Which module of the package imports which, read from the source. ``python -m tests.import_graph`` shows the graph.

Every import counts: at the top, inside a function, for the type checker only, and by a call with the module's name as
its argument. A public name counts as its home: ``from mppool import PoolManager`` is an import of
`mppool.process.manager`, because the package itself only looks the name up there. A package's ``__init__`` runs before
each of its modules; that is Python's doing and does not count.
"""

from __future__ import annotations

import ast
import os
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import NamedTuple

import mppool

PACKAGE = os.path.dirname(mppool.__file__)
HOME = os.path.dirname(PACKAGE)


class Import(NamedTuple):
    module: str  # dotted, absolute
    line: int
    late: bool  # inside a function
    typing: bool  # for the type checker only


def imports(source: str, module: str, package: bool) -> Iterator[Import]:
    """Every import of a module; ``from mppool import x`` as ``mppool.x``."""

    def walk(node: ast.AST, late: bool, typing: bool) -> Iterator[Import]:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.Import):
                for alias in child.names:
                    yield Import(alias.name, child.lineno, late, typing)
            elif isinstance(child, ast.ImportFrom):
                base = child.module or ""
                if child.level:
                    parts = module.split(".")
                    parts = parts[: len(parts) - child.level + package]
                    base = ".".join([*parts, base] if base else parts)
                for alias in child.names:
                    ours = base.partition(".")[0] == "mppool"
                    yield Import(f"{base}.{alias.name}" if ours else base, child.lineno, late, typing)
            elif isinstance(child, ast.If) and "TYPE_CHECKING" in ast.unparse(child.test):
                yield from walk(ast.Module(child.body, []), late, True)
                yield from walk(ast.Module(child.orelse, []), late, typing)
            else:
                function = isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
                yield from walk(child, late or function, typing)

    yield from walk(ast.parse(source), False, False)


def modules() -> list[tuple[str, str]]:
    """(dotted name, path) of everything in the package."""
    found = []
    for folder, _, files in os.walk(PACKAGE):
        for file in sorted(files):
            if file.endswith(".py"):
                path = os.path.join(folder, file)
                name = os.path.relpath(path, HOME)[:-3].replace(os.sep, ".").removesuffix(".__init__")
                found.append((name, path))
    return sorted(found)


def graph() -> dict[str, set[str]]:
    """Each module, and the modules of the package that it imports."""
    known = dict(modules())
    found = {}
    for module, path in known.items():
        with open(path, encoding="utf-8") as file:
            source = file.read()
        names = {each.module for each in imports(source, module, path.endswith("__init__.py"))}
        homes = {home for name in names if (home := _home(name, known))}
        found[module] = (homes | (_called_for(source) & known.keys())) - {module}
    return found


def _called_for(source: str) -> set[str]:
    """The names of modules that are imported by a function, as in ``late("mppool.database.rows")``."""
    calls = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call) and len(node.args) == 1)
    values = (call.args[0].value for call in calls if isinstance(call.args[0], ast.Constant))
    return {value for value in values if isinstance(value, str)}


def _home(name: str, known: Mapping[str, str]) -> str | None:
    """The module that an imported name lies in; None: it is not of the package."""
    front, _, last = name.rpartition(".")
    if front == "mppool" and last in mppool._HOME:
        return mppool._HOME[last]
    while name and name not in known:
        name = name.rpartition(".")[0]
    return name or None


def circles(graph: Mapping[str, set[str]]) -> list[set[str]]:
    """The strongly connected components of two modules or more: each imports every other, directly or not."""
    reached = {module: _reach(graph, module) for module in graph}
    found: list[set[str]] = []
    for module in sorted(graph):
        if module in reached[module] and not any(module in circle for circle in found):
            found.append({other for other in reached[module] if module in reached[other]})
    return found


def _reach(graph: Mapping[str, set[str]], module: str) -> set[str]:
    seen: set[str] = set()
    todo = [module]
    while todo:
        new = graph[todo.pop()] - seen
        seen |= new
        todo += new
    return seen


def room_of(module: str) -> str:
    """The sub-package of a module; "(doors)" for the modules that lie in the package itself."""
    parts = module.split(".")
    return parts[1] if os.path.isdir(os.path.join(PACKAGE, *parts[1:2])) and len(parts) > 1 else "(doors)"


def report() -> str:
    """Rooms by rooms, the circles, and the largest files."""
    edges = graph()
    count = Counter((room_of(module), room_of(other)) for module, others in edges.items() for other in others)
    rooms = sorted({room_of(module) for module in edges})
    lines = [f"{len(edges)} modules, {sum(map(len, edges.values()))} imports among them. A row imports a column:", ""]
    width = max(map(len, rooms))
    lines.append(" ".join([" " * width, *(f"{room:>{max(6, len(room))}}" for room in rooms)]))
    for row in rooms:
        cells = (f"{count[row, room] or '·':>{max(6, len(room))}}" for room in rooms)
        lines.append(" ".join([f"{row:<{width}}", *cells]))
    found = circles(edges)
    lines += ["", f"circles: {len(found)}"]
    for circle in found:
        lines.append(f"- {len(circle)} modules")
        lines += [f"    {module} → {', '.join(sorted(edges[module] & circle))}" for module in sorted(circle)]
    sizes = []
    for module, path in modules():
        with open(path, encoding="utf-8") as file:
            sizes.append((sum(1 for _ in file), module))
    lines += ["", "largest files: " + ", ".join(f"{module} {size}" for size, module in sorted(sizes)[:-6:-1])]
    return "\n".join(lines)


if __name__ == "__main__":
    print(report())
