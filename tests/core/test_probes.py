"""Probes are found by a world's folder, and run only where their code may run."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from tiny import tiny_episodes, tiny_world

from worldsim.cli.main import main
from worldsim.errors import DamagedWorld, InvalidInput
from worldsim.evaluate import probes
from worldsim.evaluate.probes import count_in_sight, find_probes, probes_of_source
from worldsim.io.folders import SHIPPED

BRIGHTNESS = """
from pathlib import Path

from worldsim.evaluate.probes import Probe, ProbeResult

Path(__file__).with_name("was-run").touch()


class Brightness(Probe):
    name = "brightness"

    def measure(self, context):
        frames = context.episodes.read("rgb", 0, 4)
        figures = {"mean": float(frames.mean()), "quick": context.effort.quick}
        return ProbeResult(figures, "how bright it is", {"sheet": [frames]}, (lambda axes: axes.plot([0, 1]),))


PROBES = (Brightness(),)
"""


@pytest.fixture
def folder(tmp_path):
    tiny_world().save_pretrained(tmp_path / "world")
    (tmp_path / "world" / "probes.py").write_text(BRIGHTNESS)
    return tmp_path / "world"


def evaluate(folder, *options):
    store = tiny_episodes(folder.parent / "store", lengths=(30, 30, 30))
    out = folder.parent / "out"
    main(["eval", str(folder), "--data", str(store.path), "--quick", "--out", str(out), *options])
    return json.loads((out / "report.json").read_text()), {path.name for path in out.iterdir()}, store


def test_probes_of_a_folder_that_is_trusted_have_their_section_sheet_and_table(folder, capsys):
    report, files, store = evaluate(folder, "--trust-probes")
    assert report["probes"] == {"brightness": {"mean": float(store.read("rgb", 0, 4).mean()), "quick": True}}
    assert "brightness-sheet.png" in files and "how bright it is" in capsys.readouterr().out


def test_the_probe_of_the_documentation_measures_a_world(folder):
    page = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
    (folder / "probes.py").write_text(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1])
    report, files, _ = evaluate(folder, "--trust-probes")
    assert set(report["probes"]["brightness"]) == {"real", "dream"} and "brightness-clips.png" in files


def test_probes_of_a_folder_do_not_run_unless_they_are_trusted(folder, capsys):
    report, _, _ = evaluate(folder)
    assert report["probes"] == {} and not (folder / "was-run").exists()
    assert "--trust-probes" in capsys.readouterr().out


def test_the_shipped_world_has_its_probes_without_being_asked():
    name = "doom-take-cover"
    config = tiny_world(source="another").config
    found = find_probes(SHIPPED / name, config)
    assert [probe.name for probe in found.probes] == ["fireballs", "growth"] and found.untrusted is None
    assert find_probes(SHIPPED / name, config).probes is found.probes  # its code runs once


def test_a_world_of_the_same_source_is_measured_as_the_shipped_one(tmp_path):
    again = find_probes(tmp_path, tiny_world(source="doom-take-cover").config)
    assert again.probes == probes_of_source("doom-take-cover") != ()
    assert find_probes(tmp_path, tiny_world().config).probes == ()


def test_what_a_probe_counts_in_sight_is_told_by_the_source():
    count = count_in_sight("doom-take-cover")
    assert count(np.zeros((3, 16, 16, 3), np.uint8)).tolist() == [0, 0, 0]
    assert count_in_sight("elsewhere") is None


def test_a_package_of_probes_imports_its_own_modules(tmp_path):
    package = tmp_path / "probes"
    package.mkdir()
    (package / "__init__.py").write_text(f"from .helper import WORD\n{BRIGHTNESS}\nBrightness.name = WORD\n")
    (package / "helper.py").write_text('WORD = "light"')
    found = find_probes(tmp_path, tiny_world().config, trust=True)
    assert [probe.name for probe in found.probes] == ["light"]


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("PROBES = ()", DamagedWorld),
        ("", DamagedWorld),
        ("PROBES = (print,)", DamagedWorld),
        (BRIGHTNESS + "PROBES = (*PROBES, Brightness())", InvalidInput),
        (BRIGHTNESS + 'Brightness.name = "a/b"', InvalidInput),
    ],
)
def test_a_file_without_proper_probes_is_refused(text, error, tmp_path):
    (tmp_path / "probes.py").write_text(text)
    with pytest.raises(error, match="probes"):
        find_probes(tmp_path, tiny_world().config, trust=True)


def test_evaluation_names_nothing_of_a_game():
    core = Path(probes.__file__).parent
    for path in (*core.glob("*.py"), core.parent / "cli" / "eval.py"):
        assert not re.search("fireball|monster|health|harm|doom", path.read_text(encoding="utf-8").lower()), path
