"""The recipes in `examples/recipes`, made as trials of a minute: they run, and end with a world and words about it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from making import measuring_little

from worldsim.cli.main import main
from worldsim.envs import WorldEnv
from worldsim.io.media import save_video
from worldsim.train.recipe import load_recipe

RECIPES = Path(__file__).parents[2] / "examples" / "recipes"


RENDER = "import gymnasium; e = gymnasium.make('Reacher-v5', render_mode='rgb_array'); e.reset(seed=0); e.render()"


def run(*command):
    """What a process of its own returned and printed."""
    environment = {"MUJOCO_GL": "egl", **os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)


def needs_mujoco():
    """Skip where MuJoCo is missing, or cannot render."""
    pytest.importorskip("mujoco", reason='needs pip install "gymnasium[mujoco]"')
    tried = run("-c", RENDER)
    if tried.returncode:
        last = (tried.stderr.strip().splitlines() or ["no word"])[-1]
        pytest.skip(f"MuJoCo cannot render without libegl1 (MUJOCO_GL=egl) or libosmesa6 (MUJOCO_GL=osmesa): {last}")


def save_videos(folder, count=12, steps=50):
    """Videos of a bright square that two actions move, and the table of these actions."""
    rng, lines = np.random.default_rng(0), ["file,step,action,reward"]
    for index in range(count):
        actions = rng.integers(2, size=steps)
        columns = np.clip(28 + np.cumsum(np.concatenate([[0], 8 * actions - 4])), 0, 52)
        frames = np.zeros((steps + 1, 64, 64, 3), np.uint8)
        for frame, column in zip(frames, columns, strict=True):
            frame[26:38, column : column + 12] = 255
        save_video(folder / "videos" / f"{index}.mp4", frames, 20)
        lines += [f"{index}.mp4,{step},{action},1" for step, action in enumerate(actions)]
    (folder / "actions.csv").write_text("\n".join(lines))


def briefly(text):
    """The recipe with few steps of small frames, trainings of seconds at a scale of 0.02, and little measured."""
    text = re.sub(r"^steps = .*$", "steps = 1500", text, flags=re.M)  # at least 400 and 150 held out, whole episodes
    text = re.sub(r"^(options = .*64) }$", r"\1, env_kwargs = { max_episode_steps = 100 } }", text, flags=re.M)
    text = re.sub(r"\b(height|width) = 64\b", r"\1 = 32", text)
    text = re.sub(r"^hours = .*$", "hours = 0.02", text, flags=re.M)
    text = text if "[evaluate]" in text else text.replace("[card]", "[evaluate]\n[card]")
    return text.replace("[evaluate]", "[evaluate]\nclips = 6\ndrift_steps = 30\ndrift_worlds = 2")


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_is_understood(path):
    assert load_recipe(path).name == path.stem


@pytest.mark.slow
@pytest.mark.parametrize("name", ["cartpole", "pong", "reacher", "videos"])
def test_a_trial_makes_a_world(name, tmp_path, capsys):
    if name == "pong":
        pytest.importorskip("ale_py", reason="needs pip install ale-py")
    if name == "reacher":
        needs_mujoco()
    if name == "videos":
        save_videos(tmp_path)
    recipe = tmp_path / f"{name}.toml"
    recipe.write_text(briefly((RECIPES / f"{name}.toml").read_text()))
    command = ("make", str(recipe), "--out", str(tmp_path / "out"), "--scale", "0.02", "--device", "cpu")
    if name == "reacher":  # MuJoCo's renderer and others in one process end it
        made = run("-m", "worldsim.cli.main", *command)
        assert made.returncode == 0, made.stderr[-2000:]
        said = made.stdout
    else:
        with measuring_little():
            main(list(command))
        said = capsys.readouterr().out
    assert "one step ahead its frames are" in said and "at the full budget: about" in said
    env = WorldEnv(str(tmp_path / "out" / "world"))
    observation, _ = env.reset(seed=0)
    assert observation.shape == (32, 32, 3)
    env.step(env.action_space.sample())


def test_a_source_that_is_missing_is_told_before_anything_is_recorded(tmp_path, capsys, monkeypatch):
    def missing(*_, **__):
        raise gym.error.DependencyNotInstalled("MuJoCo is not installed")

    monkeypatch.setattr(gym, "make", missing)
    with pytest.raises(SystemExit):
        main(["make", str(RECIPES / "reacher.toml"), "--out", str(tmp_path / "out")])
    assert "Reacher-v5 needs a package that is not installed" in capsys.readouterr().err
    assert not (tmp_path / "out" / "data").exists()
