"""Latents of whole stores: the right ones, computed once, and made again when they are not whole."""

import json
import os
import shutil

import numpy as np
import pytest
import torch
from small_training import fixed_tokenizer, latent_store
from tiny import tiny_episodes

from worldsim.data import latents
from worldsim.data.latents import cache_latents, encode_frames

LENGTHS = (30, 5, 25, 40)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_episodes(tmp_path_factory.mktemp("data") / "tiny", lengths=LENGTHS)


def test_latents_are_those_of_the_frame_and_of_the_frames_before_it(store, tmp_path, float32):
    clips, tokenizer, rows = latent_store(store, tmp_path), fixed_tokenizer(), slice(20, 40)
    assert clips.latents.shape == (int(store.ends[-1]), 2, 4, 2, 4) and clips.latents.dtype == np.float16
    for index, frames in enumerate((store.read("rgb", 20, 40), store.read("between", 20, 40)[:, 0])):
        expected = encode_frames(tokenizer, frames).numpy()
        np.testing.assert_allclose(clips.latents[rows, index], expected, rtol=1e-3, atol=1e-4)
    assert np.abs(clips.latents[rows, 0] - clips.latents[rows, 1]).max() > 0.002
    assert (clips.actions == store.read("action", 0, len(clips.actions))).all() and (clips.ends == store.ends).all()


def test_a_store_without_frames_between_has_one_latent_a_row(tmp_path):
    store = tiny_episodes(tmp_path / "plain", lengths=(8,), between=0)
    assert latent_store(store, tmp_path).latents.shape == (8, 1, 4, 2, 4)


def count_encodings(monkeypatch, fail_at=None):
    calls = []

    def encode(tokenizer, frames):
        calls.append(len(frames))
        if len(calls) == fail_at:
            raise KeyboardInterrupt
        return encode_frames(tokenizer, frames)

    monkeypatch.setattr(latents, "encode_frames", encode)
    return calls


def test_latents_are_computed_once(store, tmp_path, monkeypatch):
    calls = count_encodings(monkeypatch)
    one = latent_store(store, tmp_path)
    assert sum(calls) == 2 * sum(LENGTHS)
    calls.clear()
    other = latent_store(store, tmp_path)
    assert calls == [] and (one.latents == other.latents).all()


def test_an_interrupted_cache_is_made_again(store, tmp_path, monkeypatch):
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        count_encodings(patched, fail_at=2)
        latent_store(store, tmp_path)
    calls = count_encodings(monkeypatch)
    made = latent_store(store, tmp_path)
    assert sum(calls) == 2 * sum(LENGTHS) and (np.abs(made.latents).max((1, 2, 3, 4)) > 0).all()


def zeroed(folder):
    data = bytearray((folder / "latents.npy").read_bytes())
    data[-64:] = bytes(64)
    (folder / "latents.npy").write_bytes(data)


def flipped(folder):
    data = bytearray((folder / "latents.npy").read_bytes())
    data[len(data) // 2] ^= 1
    (folder / "latents.npy").write_bytes(data)


def without_checksum(folder):
    done = json.loads((folder / "done.json").read_text())
    (folder / "done.json").write_text(json.dumps({name: done[name] for name in ("rows", "store")}))


DAMAGE = {
    "zeroed bytes": zeroed,
    "a flipped bit": flipped,
    "a truncated array": lambda folder: os.truncate(folder / "latents.npy", 300),
    "no array": lambda folder: (folder / "latents.npy").unlink(),
    "an empty note": lambda folder: (folder / "done.json").write_text(""),
    "a list for a note": lambda folder: (folder / "done.json").write_text("[]"),
    "a nest for a note": lambda folder: (folder / "done.json").write_text("[" * 100_000),
    "a note without checksum": without_checksum,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_cache_is_made_again_and_says_so(store, tmp_path, monkeypatch, capsys, damage):
    expected = latent_store(store, tmp_path).latents.copy()
    (folder,) = (path for path in (tmp_path / "latents").iterdir() if path.is_dir())
    assert "not whole" not in capsys.readouterr().err
    damage(folder)
    calls = count_encodings(monkeypatch)
    made = latent_store(store, tmp_path)
    assert (made.latents == expected).all() and sum(calls) == 2 * sum(LENGTHS)
    assert f"the latents in {folder} are not whole" in capsys.readouterr().err
    calls.clear()
    assert (latent_store(store, tmp_path).latents == expected).all() and calls == []


def test_the_cache_of_another_tokenizer_in_its_place_is_not_taken(store, tmp_path):
    other = fixed_tokenizer()
    with torch.no_grad():
        next(other.parameters()).mul_(-1)
    expected = latent_store(store, tmp_path / "mine").latents.copy()
    cache_latents(other, store, tmp_path / "theirs", "cpu")
    (mine,), (theirs,) = ((tmp_path / run / "latents").glob("tiny*") for run in ("mine", "theirs"))
    for name in ("latents.npy", "done.json"):
        shutil.copy(theirs / name, mine / name)
    assert (latent_store(store, tmp_path / "mine").latents == expected).all()


def test_another_tokenizer_has_latents_of_its_own(store, tmp_path):
    one = latent_store(store, tmp_path)
    tokenizer = fixed_tokenizer()
    with torch.no_grad():
        next(tokenizer.parameters()).mul_(-1)
    other = cache_latents(tokenizer, store, tmp_path, "cpu")
    assert not (one.latents == other.latents).all() and (latent_store(store, tmp_path).latents == one.latents).all()


def test_stores_of_one_name_and_length_are_not_mixed_up(store, tmp_path):
    twin = tiny_episodes(tmp_path / "elsewhere" / store.path.name, lengths=(25, *LENGTHS[1:2], 30, 40), seed=7)
    assert twin.num_steps == store.num_steps
    one, other = latent_store(store, tmp_path), latent_store(twin, tmp_path)
    assert not (one.latents == other.latents).all()
    assert (latent_store(store, tmp_path).latents == one.latents).all()


def test_mirrored_episodes_show_the_other_side_and_the_other_action(store, tmp_path, float32):
    plain = latent_store(store, tmp_path)
    mirrored = cache_latents(fixed_tokenizer(), store, tmp_path, "cpu", augmentation="mirror")
    expected = encode_frames(fixed_tokenizer(), np.ascontiguousarray(store.read("rgb", 20, 40)[:, :, ::-1])).numpy()
    np.testing.assert_allclose(mirrored.latents[20:40, 0], expected, rtol=1e-3, atol=1e-4)
    assert (mirrored.actions == np.array([0, 2, 1])[plain.actions]).all() and (mirrored.ends == plain.ends).all()
    assert (latent_store(store, tmp_path).latents == plain.latents).all()  # the two are kept apart
