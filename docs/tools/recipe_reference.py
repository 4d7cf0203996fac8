"""Write docs/recipe.md from the types of `worldsim.train.recipe`: every field, its type, default and comment.

python docs/tools/recipe_reference.py
"""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import types
import typing
from pathlib import Path
from typing import Any

from worldsim.train.recipe import DataConfig, Recipe

PAGE = Path(__file__).parents[1] / "recipe.md"
INTRODUCTION = """\
# Recipes

<!-- Written by docs/tools/recipe_reference.py from worldsim/train/recipe.py: change that, and run it again. -->

A recipe is a TOML file that says how one world is made. `worldsim make recipe.toml` records, trains, packs,
calibrates and measures it, and writes its card; `--scale 0.05` makes a trial of it in minutes. [Your first
world](first-world.md) is the tutorial, and [`examples/recipes`](../examples/recipes) has recipes to copy.

- Only `name` and one `[[data]]` have to be given. Unknown keys are refused, with the nearest known one.
- Relative paths are relative to the recipe's folder.
- What is finished is not done again, and what was interrupted or killed goes on, when the same command is given again.
  A stage runs anew where its table of the recipe changed, or a stage before it: another `[evaluate]` measures anew and
  writes the card, another `[dynamics]` keeps recordings and tokenizer. What is replaced and took hours goes to the
  folder `old`. With more `hours` and nothing else changed, what was trained is trained on.
- Hours are those of the machine that trains: a faster one makes a better world of the same recipe.
"""


def page() -> str:
    """The whole page."""
    parts, seen = [INTRODUCTION], []
    todo: list[tuple[str, type]] = [("", Recipe)]
    while todo:
        where, kind = todo.pop(0)
        seen.append(where)
        rows, inner = _rows(kind, where)
        title = f"## `{where}`" if where else "## The recipe"
        parts.append(f"{title}\n\n{_summary(kind)}\n\n| key | type | default | meaning |\n|---|---|---|---|\n{rows}\n")
        todo = [*inner, *todo]
    return "\n".join(parts)


def _rows(kind: type, where: str) -> tuple[str, list[tuple[str, type]]]:
    hints, notes, rows = typing.get_type_hints(kind), comments(kind), []
    inner: list[tuple[str, type]] = []
    prefix = re.sub(r"[\[\]]", "", where)
    for f in dataclasses.fields(kind):  # type: ignore[arg-type]
        part, many = _dataclass_in(hints[f.name])
        if part is not None:
            table = f"{prefix}.{f.name}" if prefix else f.name
            if part is not DataConfig or f.name == "data":  # [[held_out]] is the same
                inner.append((f"[[{table}]]" if many else f"[{table}]", part))
            shown = f"tables `[[{table}]]`" if many else f"table `[{table}]`"
        else:
            shown = f"`{_name(hints[f.name])}`"
        rows.append(f"| `{f.name}` | {shown} | {_default(f, part is not None)} | {notes.get(f.name, '')} |")
    return "\n".join(rows), inner


def comments(kind: type) -> dict[str, str]:
    """What the comment behind each field of a dataclass says."""
    source = inspect.getsource(kind)
    lines = source.splitlines()
    (tree,) = ast.parse(source).body
    assert isinstance(tree, ast.ClassDef)
    found = {}
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno:
            rest = lines[node.end_lineno - 1].encode()[node.end_col_offset or 0 :].decode()
            found[node.target.id] = rest.partition("#")[2].strip().replace("|", "\\|")
    return found


def _summary(kind: type) -> str:
    return (kind.__doc__ or "").strip().split("\n\n")[0].replace("\n", " ")


def _dataclass_in(hint: Any) -> tuple[type | None, bool]:
    """The dataclass that a field holds, and whether it holds many."""
    if dataclasses.is_dataclass(hint):
        return typing.cast(type, hint), False
    many = typing.get_origin(hint) is tuple
    found = next((a for a in typing.get_args(hint) if dataclasses.is_dataclass(a)), None)
    return typing.cast("type | None", found), many and found is not None


def _name(hint: Any) -> str:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        several = args[-1] is Ellipsis
        return f"list of {_name(args[0])}" if several else f"[{', '.join(map(_name, args))}]"
    if origin in (types.UnionType, typing.Union):
        return _name(next(a for a in args if a is not type(None)))
    if origin is dict:
        return "table"
    return {"str": "string", "bool": "boolean", "int": "integer", "float": "number"}.get(hint.__name__, hint.__name__)


def _default(f: dataclasses.Field[Any], table: bool) -> str:
    if f.default is f.default_factory is dataclasses.MISSING:
        return "must be given"
    if table:
        return "none" if f.default in ((), None) else "as below"
    value = f.default if f.default is not dataclasses.MISSING else f.default_factory()  # type: ignore[misc]
    if value is None:
        return "none"
    if isinstance(value, bool):
        return f"`{str(value).lower()}`"
    if isinstance(value, dict):
        return "`{}`"
    if isinstance(value, tuple):
        return f"`[{', '.join(map(_toml, value))}]`"
    return f"`{_toml(value)}`"


def _toml(value: Any) -> str:
    return f'"{value}"' if isinstance(value, str) else str(value)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}", file=sys.stderr)
