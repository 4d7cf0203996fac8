"""A world's config is read strictly: what it does not know, lacks or cannot be is an error that says so."""

import json

import pytest
from lively import lively_files
from tiny import tiny_files

from worldsim.config import WorldConfig
from worldsim.errors import DamagedWorld, InvalidInput
from worldsim.migration import WORLD_FORMAT
from worldsim.sampling.noise_shaping import NoiseShaping
from worldsim.sampling.sampler import SamplingConfig


@pytest.fixture
def path(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(tiny_files().config.to_json())
    return path


def edit(path, change):
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


@pytest.mark.parametrize("steering", [False, True])
def test_a_config_survives_the_file(tmp_path, steering):
    config = lively_files(
        steering=steering, sampling=SamplingConfig(2, 0.5, NoiseShaping(rows=(0, 1))), reward_scale=0.25
    ).config
    (tmp_path / "config.json").write_text(config.to_json())
    assert WorldConfig.read(tmp_path / "config.json") == config


def test_a_whole_number_serves_where_a_float_is_wanted(path):
    edit(path, lambda v: v["source"].update(fps=35))
    assert WorldConfig.read(path).source.fps == 35


def test_fields_with_a_default_may_be_absent(path):
    edit(path, lambda v: v.pop("sampling"))
    assert WorldConfig.read(path).sampling == SamplingConfig()


BROKEN = {
    "missing fields ['name']": lambda v: v.pop("name"),
    "missing fields ['fps']": lambda v: v["source"].pop("fps"),
    "unknown fields ['colour']": lambda v: v.update(colour=1),
    "unknown fields ['depth']": lambda v: v["dynamics"].update(depth=1),
    "dynamics: dim: input should be a valid integer, found '16'": lambda v: v["dynamics"].update(dim="16"),
    "dim: input should be a valid integer, found 16.5": lambda v: v["dynamics"].update(dim=16.5),
    "dim: input should be a valid integer, found True": lambda v: v["dynamics"].update(dim=True),
    "fps: input should be a valid number, found None": lambda v: v["source"].update(fps=None),
    "max_episode_steps: input should be a valid integer, found 'long'": lambda v: v["source"].update(
        max_episode_steps="long"
    ),
    "name: input should be a valid string, found 3": lambda v: v.update(name=3),
    "actions: input should be an object, found []": lambda v: v.update(actions=[]),
    "input should be a valid array": lambda v: v["dynamics"].update(patch=2),
    "patch: tuple should have at most 2 items": lambda v: v["dynamics"].update(patch=[1, 1, 1]),
    "patch: input should be a valid integer, found 'x'": lambda v: v["dynamics"].update(patch=[1, "x"]),
    "keys: input should be a valid array": lambda v: v["actions"].update(keys=[[], "left", []]),
    "does not divide": lambda v: v["dynamics"].update(patch=[2, 3]),
    "multiples of 8": lambda v: v["tokenizer"].update(height=17),
    "steps": lambda v: v["sampling"].update(steps=0),
    f"format version {WORLD_FORMAT + 1}, this worldsim reads 6 to {WORLD_FORMAT}": lambda v: v.update(
        format_version=WORLD_FORMAT + 1
    ),
    "format version None": lambda v: v.pop("format_version"),
}


@pytest.mark.parametrize("reason", BROKEN)
def test_a_broken_config_is_refused_with_its_place_and_a_fix(path, reason):
    edit(path, BROKEN[reason])
    with pytest.raises(DamagedWorld) as caught:
        WorldConfig.read(path)
    assert reason in str(caught.value) and str(path) in str(caught.value) and ";" in str(caught.value)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "\x00", '{"format_version": "1"}'])
def test_what_is_no_config_is_refused(path, text):
    path.write_text(text)
    with pytest.raises(DamagedWorld, match=r"config\.json"):
        WorldConfig.read(path)


def test_bytes_that_are_no_text_are_refused(path):
    path.write_bytes(b"\xff\xfe{}")
    with pytest.raises(DamagedWorld, match="cannot be read"):
        WorldConfig.read(path)


def test_an_absent_config_is_refused(tmp_path):
    with pytest.raises(DamagedWorld, match="cannot be read"):
        WorldConfig.read(tmp_path / "config.json")


@pytest.mark.parametrize(
    "settings",
    [
        {"steps": 0},
        {"temperature": -1.0},
        {"temperature": float("inf")},
        {"context_noise": -0.1},
        {"context_noise": 2.0},
    ],
)
def test_sampling_settings_out_of_range_are_refused(settings):
    with pytest.raises(InvalidInput, match=next(iter(settings))):
        SamplingConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"rate": -0.1},
        {"rate": 1.5},
        {"rate_growth": -0.1},
        {"rate_growth": float("nan")},
        {"rows": (2, 2)},
        {"rows": (-1, 2)},
        {"rows": (1,)},
        {"rows": (1, 2, 3)},
        {"noise_scale": -1.0},
        {"protection_threshold": -1.0},
        {"protection_threshold": float("nan")},
    ],
)
def test_noise_shaping_out_of_range_is_refused(settings):
    with pytest.raises(InvalidInput, match=f"noise shaping {next(iter(settings))} is"):
        NoiseShaping(**settings)


def test_parts_that_do_not_fit_each_other_are_refused(path):
    for change in (
        lambda v: v["actions"].update(n=4, meanings=[], keys=[]),
        lambda v: v["tokenizer"].update(width=64),
        lambda v: v["tokenizer"].update(channels=8),
    ):
        before = path.read_text()
        edit(path, change)
        with pytest.raises(DamagedWorld, match="do not fit"):
            WorldConfig.read(path)
        path.write_text(before)
