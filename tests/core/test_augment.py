"""Augmentations: mirrored actions and frames, who may be mirrored, and one that is registered from outside."""

import dataclasses

import numpy as np
import pytest
from recordings import META
from small_training import fixed_tokenizer
from tiny import tiny_episodes

from worldsim.data import augment as augment_module
from worldsim.data.augment import augment, register_augmentation
from worldsim.data.episode_writer import EpisodeWriter
from worldsim.data.episodes import EpisodesMeta
from worldsim.data.latents import cache_latents
from worldsim.errors import InvalidInput
from worldsim.spec import ActionSpec


def meta_of(actions, declared=None):
    return dataclasses.replace(META, actions=actions, augmentations=declared)


def mirrored_actions(meta):
    actions = np.arange(meta.actions.n) + meta.actions.start if meta.actions.discrete else np.zeros((2, 1))
    return augment("mirror", meta, {"action": actions})["action"].tolist()


@pytest.mark.parametrize(
    ("meanings", "expected"),
    [(("NOOP", "UPLEFT", "UPRIGHT", "FIRE"), [0, 2, 1, 3]), (("RIGHT", "LEFT"), [1, 0]), (("NOOP",), [0])],
    ids=str,
)
def test_left_and_right_change_places_where_a_store_declares_nothing(meanings, expected):
    assert mirrored_actions(meta_of(ActionSpec(n=len(meanings), meanings=meanings))) == expected


def test_the_actions_that_a_source_declares_change_places_and_no_others():
    spec = ActionSpec(n=4, meanings=("PORT", "LEFT", "STARBOARD", "RIGHT"), start=-1)
    declared = {"mirror": {"actions": [["PORT", "STARBOARD"]]}}
    assert mirrored_actions(meta_of(spec, declared)) == [1, 0, -1, 2]


@pytest.mark.parametrize(
    "spec", [ActionSpec(n=2), ActionSpec(n=2, meanings=("NOOP", "LEFT")), ActionSpec(low=(-1.0,), high=(1.0,))], ids=str
)
def test_actions_without_a_mirror_image_are_refused(spec):
    with pytest.raises(InvalidInput, match="--augment mirror"):
        mirrored_actions(meta_of(spec))


def test_a_declared_action_that_does_not_exist_is_refused():
    spec = ActionSpec(n=2, meanings=("NOOP", "LEFT"))
    with pytest.raises(InvalidInput, match="no mirror image"):
        mirrored_actions(meta_of(spec, {"mirror": {"actions": [["LEFT", "STARBOARD"]]}}))


def test_frames_are_mirrored_and_streams_that_it_does_not_know_are_refused():
    frames = np.random.default_rng(0).integers(0, 256, (5, 2, 4, 6, 3), np.uint8)
    assert (augment("mirror", META, {"between": frames})["between"] == frames[..., ::-1, :]).all()
    with pytest.raises(InvalidInput, match="stream 'pose' has no mirror image"):
        augment("mirror", META, {"pose": np.zeros((5, 4))})


def test_what_a_source_does_not_declare_is_refused():
    with pytest.raises(InvalidInput, match="does not declare the augmentation 'mirror'"):
        augment("mirror", dataclasses.replace(META, augmentations={}), {})
    with pytest.raises(InvalidInput, match="unknown augmentation 'night'; there are mirror"):
        augment("night", META, {})


def test_an_augmentation_from_outside_is_trained_on(tmp_path, monkeypatch, float32):
    monkeypatch.setattr(augment_module, "AUGMENTATIONS", dict(augment_module.AUGMENTATIONS))

    @register_augmentation("night")
    def night(meta, streams):
        return {name: values if name == "action" else values // 4 for name, values in streams.items()}

    store = tiny_episodes(tmp_path / "tiny", lengths=(8, 6))
    plain, dark = (cache_latents(fixed_tokenizer(), store, tmp_path, "cpu", augmentation=n) for n in (None, "night"))
    assert (dark.actions == plain.actions).all() and np.abs(dark.latents - plain.latents).max() > 0.002


def test_a_store_keeps_what_its_source_declares_and_older_ones_go_on_without(tmp_path):
    declared = {"mirror": {"actions": [["LEFT", "RIGHT"]]}}
    saying = dataclasses.replace(META, augmentations=declared)
    assert EpisodesMeta.from_json(saying.to_json()) == saying
    assert "augmentations" not in META.to_json()  # so the checksums of older stores stay
    for name, meta in (("old", META), ("new", saying)):
        with EpisodeWriter(tmp_path / name, meta):
            pass
    with EpisodeWriter(tmp_path / "old", saying, resume=True):
        pass
    with pytest.raises(InvalidInput, match="augmentations"):
        EpisodeWriter(tmp_path / "new", dataclasses.replace(META, augmentations={}), resume=True)
