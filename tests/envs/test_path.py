"""Where an action goes: from `env.step` to its frame through few files, in one direction, as the docs list them."""

import ast
import re
import sys
from pathlib import Path

from tiny import tiny_world

import worldsim
import worldsim.envs
from worldsim.envs import WorldEnv
from worldsim.models.endings import EndingConfig

MOST = 12
ROOTS = {Path(worldsim.__file__).parent: "worldsim", Path(worldsim.envs.__file__).parent: "envs"}
CONCEPTS = Path(__file__).parents[2] / "docs" / "concepts.md"


def name_of(file: str) -> str | None:
    """A file of the package as the docs name it."""
    for root, name in ROOTS.items():
        if file.startswith(f"{root}/"):
            return f"{name}/{Path(file).relative_to(root).as_posix()}"
    return None


def files_crossed(env: WorldEnv) -> set[str]:
    """Files with a function that runs between the call of `env.step` and the return of the decoded frame."""
    crossed: set[str] = set()
    decoded = False

    def at_decoder(frame, event, arg):
        nonlocal decoded
        decoded = decoded or event == "return"
        return at_decoder

    def at_call(frame, event, arg):
        name = name_of(frame.f_code.co_filename)
        if name is None or decoded:
            return None
        crossed.add(name)
        is_decoder = name == "worldsim/models/tokenizer.py" and frame.f_code.co_name == "decode"
        return at_decoder if is_decoder else None

    before = sys.gettrace()
    sys.settrace(at_call)
    try:
        env.step(1)
    finally:
        sys.settrace(before)
    assert decoded
    return crossed


def listed() -> list[str]:
    """The files that the docs list, in order."""
    section = CONCEPTS.read_text("utf-8").split("Follow one action through the code", 1)[1].split("\n## ", 1)[0]
    return re.findall(r"^\d+\. `([^`]+\.py)`", section, re.MULTILINE)


def imports(name: str) -> set[str]:
    """The files of the package that one of them imports when it runs, by the names of the docs."""
    folder, rest = name.split("/", 1)
    root = next(root for root, name in ROOTS.items() if name == folder)
    found = set()
    for node in ast.parse((root / rest).read_text("utf-8")).body:  # not those under `if TYPE_CHECKING`
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("worldsim"):
            for module in (node.module, *(f"{node.module}.{alias.name}" for alias in node.names)):
                path = module.replace(".", "/").replace("worldsim/envs/", "envs/")
                found.add(f"{path}.py")
    return found


def test_an_action_crosses_few_files_to_its_frame_and_the_docs_list_them():
    env = WorldEnv(tiny_world(endings=EndingConfig(shift=-20.0)))
    env.reset(seed=0)
    env.step(1)
    crossed = files_crossed(env)
    assert crossed == set(listed())
    assert len(listed()) == len(crossed) <= MOST


def test_the_way_of_an_action_goes_in_one_direction():
    """No file imports one that comes before it on the way."""
    way = listed()
    for index, name in enumerate(way):
        assert not imports(name) & set(way[: index + 1]), name
    assert "worldsim/rollout.py" in imports("worldsim/world.py")  # imports are found at all
