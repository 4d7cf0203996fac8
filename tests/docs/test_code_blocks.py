import argparse
import ast
import contextlib
import functools
import importlib.util
import io
import re
import runpy
import shlex
import sys
import tomllib
from collections import Counter

import pytest
from pages import PAGES, RECORDS, REPOSITORY, Block, blocks, inline_code, name_of

from worldsim.cli.main import COMMANDS, main

LANGUAGES = {"python", "sh", "mermaid", "text"}
CHEAP = {"info", "worlds"}  # commands that are run; all others are only parsed
OTHER_PROGRAMS = {"", ".", ".ci/run", "apt-get", "export", "mypy", "python3", "ray", "ruff", "torchrun"}
OTHER_OPTIONS = {"--logdir", "--nproc-per-node"}  # of tensorboard and torchrun
EXTRAS = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["project"]["optional-dependencies"]


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_python_blocks_run(page, tmp_path, monkeypatch):
    """One after the other, as a reader would paste them; of those that are not run, imports of what is installed."""
    monkeypatch.chdir(tmp_path)
    namespace = {"__name__": name_of(page)}
    for block in blocks(page, "python"):
        tree = ast.parse(block.code)
        if block.kind:
            tree.body = [node for node in tree.body if is_there(node)]
        ast.increment_lineno(tree, block.line - 1)
        exec(compile(tree, str(page), "exec"), namespace)


def is_there(node):
    """Whether this is an import, of worldsim or of a package that is installed: a page may need large ones."""
    names = [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", None) or ""]
    packages = {name.partition(".")[0] for name in names} - {"worldsim"}
    is_import = isinstance(node, ast.Import | ast.ImportFrom)
    return is_import and all(importlib.util.find_spec(package) is not None for package in packages)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_shell_blocks_are_understood(page, monkeypatch, capsys):
    for block in blocks(page, "sh"):
        for command in block.commands() if block.kind != "as of" else ():
            try:
                understand(shlex.split(command, comments=True), monkeypatch)
            except SystemExit:
                pytest.fail(f"{name_of(page)}:{block.line}: {command!r} is refused: {capsys.readouterr().err}")


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_extras_that_are_named_exist(page, monkeypatch):
    for code in inline_code(page):
        if code.startswith("pip install"):
            understand(shlex.split(code), monkeypatch)


def understand(words, monkeypatch):
    """Parse a command by the program that it names, and run it where that is cheap; raises or exits if it is wrong."""
    while words and (re.fullmatch(r"[A-Z_]+=\S*", words[0]) or words[0] in ("sudo", "xvfb-run", "-a")):
        words = words[1:]
    program, args = (words[0], words[1:]) if words else ("", [])
    if program == "worldsim":
        parse_command(args, monkeypatch)
    elif program == "python" and args[0].startswith(("examples/", "docs/tools/")):
        parse_script(args, monkeypatch)
    elif program == "python":
        assert args[:2] == ["-m", "pytest"], words
        assert all((REPOSITORY / path).exists() for path in args[2:] if path.endswith(".py")), args
    elif program == "pip":
        named = [extra for found in re.findall(r"\[([\w,]+)\]", " ".join(args)) for extra in found.split(",")]
        assert set(named) <= set(EXTRAS), named
    elif program == "make":
        assert re.search(rf"^{args[0]}:", (REPOSITORY / "Makefile").read_text(), re.MULTILINE), args
    else:
        assert program in OTHER_PROGRAMS, f"what is {program!r}?"


def parse_command(args, monkeypatch):
    if args[0] in CHEAP or args[0] not in COMMANDS:
        main(args)
        return
    module, function, _ = COMMANDS[args[0]]
    parsed = Counter()

    @functools.wraps(getattr(importlib.import_module(module), function))  # tyro reads the signature of the real one
    def note(*_, **__):
        parsed[args[0]] += 1

    with monkeypatch.context() as patch:
        patch.setattr(f"{module}.{function}", note)
        main(args)
    assert parsed.total() == 1


class Parsed(Exception):
    """The options of a script were understood."""


def parse_script(args, monkeypatch):
    real = argparse.ArgumentParser.parse_args

    def parse_and_leave(self, *given):
        real(self, *given)
        raise Parsed

    with monkeypatch.context() as patch:
        patch.setattr(argparse.ArgumentParser, "parse_args", parse_and_leave)
        patch.setattr(sys, "argv", args)
        with pytest.raises(Parsed):
            runpy.run_path(str(REPOSITORY / args[0]), run_name="__main__")


@pytest.fixture(scope="module")
def options():
    """All the options that there are, of commands and scripts, from their own help."""
    texts = [help_of("worldsim", name) for name in COMMANDS]
    for name in ("train", "agent", "robot"):
        parts = re.findall(r"[\w-]+", re.search(r"\{([a-z,-]+)\}", help_of("worldsim", name))[1])
        texts += [help_of("worldsim", name, part) for part in parts]
    scripts = [path for folder in ("examples", "docs/tools") for path in sorted((REPOSITORY / folder).glob("*.py"))]
    texts += [help_of(path) for path in scripts if "argparse" in path.read_text(encoding="utf-8")]
    return OTHER_OPTIONS.union(*(re.findall(r"--[a-z][\w.-]*", text) for text in texts))


def help_of(program, *args):
    shown = io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(shown), contextlib.suppress(SystemExit):
        patch.setattr(sys, "argv", [str(program), *args, "--help"])
        main([*args, "--help"]) if program == "worldsim" else runpy.run_path(str(program), run_name="__main__")
    return shown.getvalue()


@pytest.mark.parametrize("page", [page for page in PAGES if page not in RECORDS], ids=name_of)
def test_options_that_are_named_exist(page, options):
    for code in inline_code(page):
        for option in re.findall(r"(?:^|\s)(--[a-z][\w.-]*)", code):
            assert option in options, f"{name_of(page)} names {option}, which no command has"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_blocks_say_what_they_are(page):
    for block in blocks(page):
        where = f"{name_of(page)}:{block.line}"
        assert block.language in LANGUAGES, f"{where}: name a language, one of {', '.join(sorted(LANGUAGES))}"
        assert block.kind != "as of" or page in RECORDS, f"{where}: only results are of a certain commit"
    fences = page.read_text(encoding="utf-8").count("```")
    assert fences == 2 * len(blocks(page)), f"{name_of(page)}: a code block is not closed, or is indented"


@pytest.mark.parametrize(
    "command",
    [
        "worldsim rollout doom-take-cover --outt clip.mp4",
        "worldsim train tokenizer --data data --out run --learning-rate 1",
        "worldsim simulate doom-take-cover",
        "python examples/ppo_quick.py --stepss 20",
    ],
)
def test_a_command_that_is_wrong_is_noticed(command, monkeypatch):
    (parsed,) = Block(REPOSITORY, 1, "sh", command).commands()
    with pytest.raises(SystemExit):
        understand(shlex.split(parsed), monkeypatch)
