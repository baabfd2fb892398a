"""How the code is arranged, counted: `python tests/evidence/counts.py TREE [TREE ...]` prints a column a tree.

Counts the Python files of pipeline, stages, cache and clip2seg: files, folders, the fullest folder, circles of imports
between files (strongly connected components; an import inside a function counts), `Any` and `dict[str, Any]` in
signatures, functions over six parameters (self apart), lines. Nothing is imported: the source is parsed.
"""

from __future__ import annotations

import ast
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

PACKAGES = ("clip2seg", "pipeline", "stages", "cache")
MOST_PARAMETERS = 6

Function = ast.FunctionDef | ast.AsyncFunctionDef


def sources(root: Path) -> dict[str, Path]:
    """Module name -> file."""
    found = {}
    for package in PACKAGES:
        for file in sorted((root / package).rglob("*.py")):
            parts = file.relative_to(root).with_suffix("").parts
            found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file
    return found


def imported(tree: ast.AST) -> Iterator[str]:
    """Names of modules, and of what is taken from them, wherever in a file; those for type checkers alone too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def graph(root: Path) -> dict[str, set[str]]:
    """Module -> modules of this project that it imports."""
    files = sources(root)
    return {
        name: {other for other in imported(ast.parse(file.read_text(encoding="utf-8"))) if other in files} - {name}
        for name, file in files.items()
    }


def circles(arrows: Mapping[str, set[str]]) -> list[list[str]]:
    """Groups of modules that import each other, over however many steps."""

    def reached(start: str) -> set[str]:
        found: set[str] = set()
        todo = [start]
        while todo:
            for other in arrows[todo.pop()] - found:
                found.add(other)
                todo.append(other)
        return found

    reach = {name: reached(name) for name in arrows}
    groups = {tuple(sorted(o for o in reach[name] if name in reach[o])) for name in arrows if name in reach[name]}
    return [list(group) for group in sorted(groups)]


def functions(tree: ast.AST) -> Iterator[Function]:
    """All functions and methods of a file."""
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def parameters(function: Function) -> list[ast.arg]:
    """The parameters of a function without self and cls."""
    every = function.args
    named = [*every.posonlyargs, *every.args, *every.kwonlyargs]
    return [a for a in (*named, every.vararg, every.kwarg) if a is not None and a.arg not in ("self", "cls")]


def types_of(function: Function) -> list[str]:
    """The types that a signature names, as text."""
    types = [*(a.annotation for a in parameters(function)), function.returns]
    return [ast.unparse(t) for t in types if t is not None]


def count(root: Path) -> dict[str, str]:
    """What is counted -> value."""
    files = sources(root)
    trees = [ast.parse(file.read_text(encoding="utf-8")) for file in files.values()]
    folders = Counter(file.parent for file in files.values() if file.name != "__init__.py")
    fullest, most = folders.most_common(1)[0]
    every = [function for tree in trees for function in functions(tree)]
    types = [text for function in every for text in types_of(function)]
    commands = [f for f in every if any("command" in ast.unparse(d) for d in f.decorator_list)]
    long = [f for f in every if len(parameters(f)) > MOST_PARAMETERS and f not in commands]
    words = [text.replace("[", " ").replace("]", " ").replace(",", " ").split() for text in types]
    longest = max(files.values(), key=lambda file: len(file.read_text(encoding="utf-8").splitlines()))
    lines = {file: len(file.read_text(encoding="utf-8").splitlines()) for file in files.values()}
    return {
        "files": str(len(files)),
        "folders": str(len(folders)),
        "most files in a folder": f"{most} ({fullest.relative_to(root)})",
        "circles of imports": str(len(circles(graph(root)))),
        "signatures with `Any`": str(sum("Any" in w for w in words)),
        "of them `dict[str, Any]`": str(sum("dict[str, Any]" in text for text in types)),
        f"functions over {MOST_PARAMETERS} parameters (commands apart)": str(len(long)),
        "most parameters": str(max(len(parameters(f)) for f in every if f not in commands)),
        "lines": str(sum(lines.values())),
        "longest file": f"{lines[longest]} ({longest.relative_to(root)})",
    }


def main(roots: list[Path]) -> None:
    """Prints the table."""
    columns = [count(root) for root in roots]
    print("| | " + " | ".join(root.resolve().name for root in roots) + " |")
    print("|---" * (len(roots) + 1) + "|")
    for name in columns[0]:
        print(f"| {name} | " + " | ".join(column[name] for column in columns) + " |")


if __name__ == "__main__":
    main([Path(word) for word in sys.argv[1:]] or [Path(__file__).resolve().parents[2]])
