"""Which rows make a training clip, and how much each of them counts."""

import dataclasses
from collections import Counter

import numpy as np
import pytest
import torch
from small_training import CLIP, latent_store, narrow_dynamics_task
from tiny import tiny_episodes

from worldsim.data.clips import ClipConfig, changes
from worldsim.errors import InvalidInput

PLAIN = ClipConfig(changing=0.0, event=0.0)

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    # One episode is shorter than a clip.
    return tiny_episodes(tmp_path_factory.mktemp("data") / "tiny", lengths=(30, 5, 25, 40))


@pytest.fixture(scope="module")
def clips(store, tmp_path_factory):
    return latent_store(store, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def numbered(clips, monkeypatch):
    """A task of plain clips whose rewards are the numbers of the rows."""
    rows = np.arange(len(clips.rewards), dtype=np.float32)
    return narrow_dynamics_task([dataclasses.replace(clips, rewards=rows)], monkeypatch, batch=500, clips=PLAIN)


def test_a_clip_is_a_run_of_rows_of_one_episode(numbered, store):
    batch = numbered.batch(0, 0)
    first, ends = store.ends - store.lengths, store.ends
    columns = (batch[name].numpy() for name in ("rewards", "valid", "ages"))
    for rows, valid, ages in zip(*columns, strict=True):
        episode = int(np.searchsorted(ends, rows[0], side="right"))
        assert (ages == rows - first[episode]).all()
        assert first[episode] <= rows[0] and rows[-1] < ends[episode]
        count = int(valid.sum())
        assert valid[:count].all() and (rows[:count] == rows[0] + np.arange(count)).all()
        assert (rows[count:] == ends[episode] - 1).all()
        assert count == min(CLIP + 1, ends[episode] - rows[0])


def test_short_episodes_are_masked_and_long_ones_are_not(numbered, store):
    batch = numbered.batch(1, 0)
    start, end = store.ends[0], store.ends[1]
    short = (batch["rewards"][:, 0] >= start) & (batch["rewards"][:, 0] < end)
    assert short.any() and (batch["valid"][short].sum(1) == 5).all() and batch["valid"][~short].all()


def test_every_row_is_learned_from_about_equally_often_in_plain_clips(numbered, store):
    met: Counter[int] = Counter()
    for step in range(12):
        batch = numbered.batch(step, 0)
        met.update(batch["rewards"][:, 1:][batch["valid"][:, 1:]].int().tolist())
    resets = set((store.ends - store.lengths).tolist())
    assert set(met) == set(range(int(store.ends[-1]))) - resets  # nothing leads to the row of a reset
    mean = np.mean(list(met.values()))
    short = range(int(store.ends[0]), int(store.ends[1]))  # met less often: no clip can be filled from them
    for row, count in met.items():
        assert (0.2 if row in short else 0.5) * mean < count < 2.2 * mean, (row, count, mean)


def test_change_is_counted_from_the_row_before_but_not_from_another_episode(clips, store):
    latents = np.zeros(clips.latents.shape, np.float16)
    latents[7:, 0] = 2.0  # a frame that changes once, in the third episode's midst at 40, and at its beginning at 35
    latents[35:40, 0], latents[40:, 0] = 1.0, 4.0
    found = changes(dataclasses.replace(clips, latents=latents))
    assert store.ends[1] == 35
    assert found[7] == 4 and found[40] == 9 and np.flatnonzero(found).tolist() == [7, 40]
    assert (changes(dataclasses.replace(clips, latents=0 * latents)) == 1).all()


def test_of_changing_clips_what_follows_the_change_is_learned_and_not_what_leads_to_it(clips, monkeypatch):
    latents = np.zeros(clips.latents.shape, np.float16)
    latents[80:, 0] = 1.0  # the last episode has rows 60 to 99
    rows = np.arange(len(clips.rewards), dtype=np.float32)
    numbered = dataclasses.replace(clips, latents=latents, rewards=rows)
    task = narrow_dynamics_task([numbered], monkeypatch, batch=200, clips=ClipConfig(changing=1.0))
    batch = task.batch(0, 0)
    row = batch["rewards"].int()
    assert torch.equal(batch["valid"], row > 80) and batch["valid"].any(1).all()
    assert set((row == 80).float().argmax(1).tolist()) == set(range(1, CLIP // 2 + 1))


def test_clips_with_events_come_more_often_and_count_the_less(clips, store, monkeypatch):
    rows = np.arange(len(clips.rewards), dtype=np.float32)
    event = np.isin(rows, (70, int(store.ends[3]) - 1))  # in the midst and at the end of the last episode

    def met(share):
        numbered = dataclasses.replace(clips, rewards=rows, event=event)
        config = ClipConfig(changing=0.0, event=share)
        batch = narrow_dynamics_task([numbered], monkeypatch, batch=6000, clips=config).batch(0, 0)
        row, valid = batch["rewards"][:, 1:].int(), batch["valid"][:, 1:]
        often = torch.bincount(row[valid], minlength=len(rows))
        counted = torch.bincount(row[valid], batch["weight"][:, 1:][valid], minlength=len(rows))
        return often.numpy(), counted.numpy()

    (plain, same), (often, counted) = met(0.0), met(0.5)
    assert (plain == same).all()
    assert (often[event] > 3 * plain[event]).all()
    np.testing.assert_allclose(counted, plain, rtol=0.25)
    np.testing.assert_allclose(counted.sum(), plain.sum(), rtol=0.03)


def test_clips_are_chosen_for_what_no_memory_has_seen(clips, store, monkeypatch):
    rows = np.arange(len(clips.rewards), dtype=np.float32)
    mask = np.ones((len(rows), 1, *clips.latents.shape[3:]), np.float16)
    mask[70] = mask[store.ends - 1] = 0  # what comes after the end of an episode is not unseen
    guide = np.zeros((len(rows), *clips.latents.shape[2:]), np.float16)
    contexts = {"keyframes.guide": guide, "keyframes.mask": mask}
    task = narrow_dynamics_task(
        [dataclasses.replace(clips, rewards=rows, contexts=contexts)], monkeypatch, batch=100,
        clips=dataclasses.replace(PLAIN, unseen=1.0),
    )  # fmt: skip
    batch = task.batch(0, 0)
    assert (batch["rewards"][:, :-1] == 70).any(1).all() and batch["valid"].all()
    assert set((batch["rewards"] == 70).float().argmax(1).tolist()) == set(range(CLIP))
    without = dataclasses.replace(clips, rewards=rows)
    plain, other = (
        narrow_dynamics_task([without], monkeypatch, batch=20, clips=dataclasses.replace(PLAIN, unseen=share))
        for share in (0.0, 1.0)
    )
    assert torch.equal(plain.batch(0, 0)["rewards"], other.batch(0, 0)["rewards"])


def test_data_without_events_makes_plain_clips(clips, monkeypatch):
    nothing = np.zeros_like(clips.event)
    batch = narrow_dynamics_task([dataclasses.replace(clips, event=nothing)], monkeypatch, batch=50).batch(0, 0)
    assert (batch["weight"] == 1).all() and not batch["event"].any()


def test_stores_are_drawn_from_by_their_size(clips, store, monkeypatch):
    few = int(store.ends[0])
    small = dataclasses.replace(
        clips, latents=clips.latents[:few], ends=store.ends[:1], rewards=clips.rewards[:few] * 0 + 9,
        terminated=clips.terminated[:few], event=clips.event[:few],
    )  # fmt: skip
    task = narrow_dynamics_task([clips, small], monkeypatch, batch=1000, clips=PLAIN)
    share = (task.batch(0, 0)["rewards"][:, 1] == 9).float().mean()
    assert share == pytest.approx(few / (few + int(store.ends[-1])), abs=0.04)


@pytest.mark.parametrize("share", [-0.1, 1.1, float("nan")])
def test_a_share_of_clips_that_is_none_is_refused(share):
    with pytest.raises(InvalidInput, match="clips changing"):
        ClipConfig(changing=share)
