"""Recipes are read strictly, and what is wrong with one is told in a sentence before anything is recorded."""

from pathlib import Path

import ball_env
import making
import point_robot
import pytest
from recordings import META, write

from worldsim.cli.main import main
from worldsim.cli.make_checks import check_recipe
from worldsim.data.episode_writer import EpisodeWriter
from worldsim.errors import InvalidInput, MissingDependency
from worldsim.train.recipe import load_recipe


def load(folder, text):
    (folder / "recipe.toml").write_text(text)
    return load_recipe(folder / "recipe.toml")


def refused(folder, capsys, old="", new=""):
    """The one line that a making of the changed recipe ends with; nothing was recorded."""
    assert old in making.RECIPE and ball_env.DISCRETE
    (folder / "recipe.toml").write_text(making.RECIPE.replace(old, new))
    with pytest.raises(SystemExit) as ended:
        main(["make", str(folder / "recipe.toml"), "--out", str(folder / "out")])
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert ended.value.code == 2 and not (folder / "out" / "data").exists()
    return line


@pytest.mark.parametrize(
    ("old", "new", "wanted"),
    [
        ("clip = 8", "clips_ = 8", "'clips_' is nearest to 'clips'"),
        ("[evaluate]", "[evaluation]", "'evaluation' is nearest to 'evaluate'"),
        ("hours = 0.5", "hour = 1", "tokenizer: unknown fields ['hour'], missing fields []; 'hour' is nearest to"),
        ("hours = 0.5", 'hours = "long"', "tokenizer: hours: input should be a valid number, found 'long'"),
        ("hours = 0.5", "hours = 0", "tokenizer: hours is 0.0; give more than 0"),
        ("steps = 400", "steps = 0", "steps is 0"),
        ("starts = 4", "context = 0", "export context is 0"),
        ('name = "ball"', 'name = "ball"\nstart = "nowhere"', "nowhere"),
        ('name = "ball"', "", "missing fields ['name']"),
        ('name = "ball"', 'name = "a/b"', "world name 'a/b' cannot be used"),
        ("clip = 8", "clip = = 8", "is no TOML"),
        ("worldsim-tests/Ball-v0", "worldsim-tests/Bal-v0", "gymnasium cannot make 'worldsim-tests/Bal-v0'"),
        ("gym:worldsim-tests/Ball-v0", "ball", "unknown source 'ball'; the sources are"),
        ('policy = "persistent"', 'policy = "expert"', "expert"),
        ("height = 16, width = 32", "height = 20, width = 32", "20 x 32 pixels; both sides must be multiples of 8"),
        ("height = 16, width = 32", "hight = 16, width = 32", "does not take hight; it takes"),
        (
            "clip = 8",
            'clip = 8\nstreams = ["proprio"]',
            "streams proprio are not recorded by gym:worldsim-tests/Ball-v0",
        ),
        ("channels = 4", 'channels = 4\ncameras = ["wrist"]', "cameras wrist are not recorded"),
        ("channels = 4", 'channels = 4\ndecoder = "light"', "decoder 'light' is unknown"),
        ("channels = 4", "channels = 4\ndecoder_widths = [8]", "give one each for 1/2 and 1/4 and 1/8 of the image"),
        ("clip = 8", 'clip = 8\naugment = ["mirror"]', "declares no augmentation mirror"),
        ("clip = 8", 'clip = 8\nevent = ["HEALTH"]', "HEALTH"),
        ("patch = [2, 1]", "patch = [3, 1]", "dynamics: "),
        ("clip = 8", "clip = 1", "clip is 1; give at least 2"),
        ("clip = 8", "clip = 8\nredraw = true", "redraw is true and foreseen names nothing"),
        ("clip = 8", "clip = 8\naction_tokens = 4", "dynamics action_tokens is 4 and actions are discrete"),
        ("clip = 8", 'clip = 8\nmemories = ["keyframe"]', "memory 'keyframe' is unknown or stands twice; there are"),
        ("clip = 8", 'clip = 8\nmemories = ["keyframes"]', "keyframes need the streams pose, depth"),
        (
            "clip = 8",
            'clip = 8\nmemories = ["recurrent"]\noptions = { recurrent = { wide = 4 } }',
            "and it takes width, longest",
        ),
        ('source = "gym:worldsim-tests/Ball-v0"\nsteps = 400', 'store = "nowhere"', "nowhere"),
        (
            'source = "gym:worldsim-tests/Ball-v0"\nsteps = 400',
            'videos = "clips"\nactions = "a.csv"',
            "clips' of the recipe do not exist; paths are relative to the recipe's folder",
        ),
        ('source = "gym:worldsim-tests/Ball-v0"\nsteps = 400', 'videos = "clips"', "have no actions; give their table"),
        ('source = "gym:worldsim-tests/Ball-v0"\nsteps = 400', "steps = 400", "give one of source, store and videos"),
    ],
)
def test_what_is_wrong_is_one_sentence_before_anything_is_recorded(tmp_path, capsys, old, new, wanted):
    assert wanted in refused(tmp_path, capsys, old, new)


def test_a_start_is_a_folder_beside_the_recipe_or_a_name(tmp_path):
    def start(name):
        text = making.RECIPE.replace('name = "ball"', f'name = "ball"\nstart = "{name}"')
        (tmp_path / "recipe.toml").write_text(text)
        return load_recipe(tmp_path / "recipe.toml").start

    (tmp_path / "made").mkdir()
    assert start("made") == str(tmp_path / "made")
    assert start("doom-take-cover") == "doom-take-cover"


def test_a_recipe_that_is_missing_is_one_sentence(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["make", str(tmp_path / "none.toml")])
    assert "none.toml cannot be read (No such file or directory)" in capsys.readouterr().err


def test_recordings_of_two_kinds_are_refused(tmp_path, capsys):
    more = '[[data]]\nsource = "gym:worldsim-tests/BallBox-v0"\noptions = { height = 16, width = 32 }\n\n[tokenizer]'
    line = refused(tmp_path, capsys, "[tokenizer]", more)
    assert "differ in actions" in line and "BallBox" in line


def test_a_simulator_that_is_not_installed_is_told(tmp_path, capsys, monkeypatch):
    def missing(*_):
        raise MissingDependency("Ball needs balls; get them with pip install balls")

    monkeypatch.setattr("worldsim.envs.sources.gym_source._make", missing)
    assert "pip install balls" in refused(tmp_path, capsys)


def test_a_folder_that_cannot_be_written_is_told(tmp_path, capsys):
    (tmp_path / "out").write_text("a file")
    assert "out" in refused(tmp_path, capsys)


def test_paths_are_relative_to_the_recipe(tmp_path):
    recipe = load(tmp_path, 'name = "mine"\n[[data]]\nvideos = "films"\nactions = "a.csv"\n')
    assert (recipe.data[0].videos, recipe.data[0].actions) == (str(tmp_path / "films"), str(tmp_path / "a.csv"))
    absolute = load(tmp_path, 'name = "mine"\n[[data]]\nstore = "/data/mine"\n')
    assert Path(absolute.data[0].store) == Path("/data/mine")


def test_without_a_table_of_its_own_a_tenth_more_is_held_out_under_another_seed(tmp_path):
    recipe = load(tmp_path, 'name = "a"\n[[data]]\nsource = "gym:A-v0"\nsteps = 500\nseed = 3\n')
    (apart,) = recipe.held_outs()
    assert apart.steps == 50 and apart.seed != 3 and apart.source == "gym:A-v0"


def test_a_scale_makes_all_of_it_smaller_but_not_too_small(tmp_path):
    recipe = load(tmp_path, making.RECIPE.replace("steps = 400", "steps = 100000"))
    trial = recipe.scaled(0.1)
    assert trial.data[0].steps == 10_000 and trial.held_out[0].steps == 240
    assert trial.tokenizer.hours == pytest.approx(0.05) and trial.evaluate.clips == 4
    assert recipe.scaled(1.0) is recipe
    for scale in (0, -1, 1.5):
        with pytest.raises(InvalidInput, match="--scale"):
            recipe.scaled(scale)


def test_a_store_that_exists_can_be_data(tmp_path, capsys):
    with EpisodeWriter(tmp_path / "mine", META) as writer:
        write(writer, (10, 12))
    new = 'store = "mine"'
    line = refused(tmp_path, capsys, 'source = "gym:worldsim-tests/Ball-v0"\nsteps = 400', new)
    assert "20 x 20 pixels" in line or "differ in" in line  # it was opened, and its frames are another size


ACTING = """
name = "acting"
[[data]]
source = "point-robot"
[dynamics]
patch = [2, 1]
streams = ["proprio", "goal", "task", "success"]
foreseen = ["proprio"]
heads = ["reward", "motion:proprio", "success"]
action_tokens = 4
"""


def test_what_is_foreseen_by_no_head_is_told_before_anything_is_recorded(tmp_path):
    assert "task" in point_robot.STREAMS  # which registers the source
    with pytest.raises(InvalidInput, match="foreseen names 'proprio', which no head predicts"):
        check_recipe(load(tmp_path, ACTING.replace('"motion:proprio", ', "").replace("action_tokens = 4\n", "")))


def test_a_recipe_with_action_tokens_is_checked_before_anything_is_recorded(tmp_path):
    assert "task" in point_robot.STREAMS  # which registers the source
    check_recipe(load(tmp_path, ACTING))
    with pytest.raises(InvalidInput, match="the history must not see the action"):
        check_recipe(load(tmp_path, ACTING + 'conditions = ["action", "noise_level"]\n'))
    with pytest.raises(InvalidInput, match="denoiser_blocks is 0"):
        check_recipe(load(tmp_path, ACTING + "denoiser_blocks = 0\n"))
    with pytest.raises(InvalidInput, match="at most 1 together"):
        load(tmp_path, ACTING + "[dynamics.loss]\naction_known = 0.9\n")
