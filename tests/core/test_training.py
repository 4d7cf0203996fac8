"""What training sees and what it counts: which action belongs to which frame, which rows and places weigh what."""

import dataclasses

import numpy as np
import pytest
import torch
from lively import randomise
from small_training import CLIP, latent_store, loss_of, narrow_dynamics_task, tokenizer_task
from tiny import tiny_episodes

from worldsim.data.clips import change_scale
from worldsim.errors import InvalidInput
from worldsim.models.dynamics import Canvas
from worldsim.models.tokenizer import to_images
from worldsim.train import dynamics_loss, dynamics_task
from worldsim.train.dynamics_loss import LossConfig, _Given
from worldsim.train.tokenizer_task import FIRST_RMS

pytestmark = pytest.mark.usefixtures("float32")
LENGTHS = (30, 5, 25, 40)  # one is shorter than a clip


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_episodes(tmp_path_factory.mktemp("data") / "tiny", lengths=LENGTHS)


@pytest.fixture(scope="module")
def clips(store, tmp_path_factory):
    return latent_store(store, tmp_path_factory.mktemp("cache"))


@pytest.fixture
def task(clips, monkeypatch):
    task = narrow_dynamics_task([clips], monkeypatch)
    randomise(task.model)  # where gates are closed, nothing below could fail
    return task


def test_a_batch_is_a_function_of_seed_step_and_process(clips, store, monkeypatch):
    for make in (
        lambda seed: narrow_dynamics_task([clips], monkeypatch, seed=seed),
        lambda seed: tokenizer_task(store, seed=seed),
    ):

        def batch(step, rank, seed=0, make=make):
            return {name: tensor.numpy().tobytes() for name, tensor in make(seed).batch(step, rank).items()}

        torch.manual_seed(1)
        one = batch(5, 0)
        torch.manual_seed(2)
        assert batch(5, 0) == one
        others = [batch(6, 0), batch(5, 1), batch(5, 0, seed=1)]
        name = "latents" if "latents" in one else "frames"
        assert len({other[name] for other in [one, *others]}) == 4


def test_a_clip_without_a_past_is_refused(clips, store):
    with pytest.raises(InvalidInput, match="clip is 1"):
        dynamics_task.DynamicsTask([clips], tokenizer_task(store).model.tokenizer, clip=1)


def test_two_frames_in_a_row_are_of_one_game(tmp_path):
    store = tiny_episodes(tmp_path / "short", lengths=(1, 2, 1, 3), between=0)
    task = tokenizer_task(store)
    rng, pairs = np.random.default_rng(0), [store.read("rgb", row, row + 2) for row in (1, 4, 5)]
    seen = set()
    for _ in range(60):
        run = task._run(rng)
        seen |= {i for i, pair in enumerate(pairs) if np.array_equal(run, pair)} or {"another"}
    assert seen == {0, 1, 2}
    with pytest.raises(InvalidInput, match="two images"):
        tokenizer_task(tiny_episodes(tmp_path / "single", lengths=(1, 1), between=0))


def test_an_untrained_encoder_says_something_about_the_frames(store):
    task = tokenizer_task(store)
    frames = torch.from_numpy(store.read("rgb", 0, store.num_steps))
    said = task.model.tokenizer.encoder(to_images(frames)).detach()
    assert said.square().mean().sqrt() == pytest.approx(FIRST_RMS, rel=0.2)
    assert said.mean((0, 2, 3)).abs().max() < 0.5 * FIRST_RMS


# -- the loss


def evaluate(task, batch, seed=0, step=0, progress=0.0):
    with torch.no_grad():
        loss, metrics = task.model(batch, step, torch.Generator().manual_seed(seed), progress)
    return {"loss": float(loss), **{name: float(value) for name, value in metrics.items()}}


@pytest.fixture
def batch(task):
    batch = task.batch(0, 0)
    batch["valid"][:] = True
    batch["terminated"][:] = False
    return batch


def altered(batch, **changes):
    return {**{name: tensor.clone() for name, tensor in batch.items()}, **changes}


def test_the_history_gets_each_frame_with_the_action_that_leads_on_from_it(task, batch, monkeypatch):
    task.model.config = LossConfig(context_noise=0.0)
    got, forward = {}, task.model.dynamics.forward

    def spy(previous, before, actions, level, ages, streams, ahead, known):
        got.update(previous=previous, before=before, actions=actions, ages=ages)
        return forward(previous, before, actions, level, ages, streams, ahead, known)

    monkeypatch.setattr(task.model.dynamics, "forward", spy)
    evaluate(task, batch)
    frames = batch["latents"][:, :, 0].float()
    assert torch.equal(got["previous"], frames[:, :-1])
    assert torch.equal(got["before"], frames[:, [0, *range(CLIP - 1)]])
    assert torch.equal(got["actions"], batch["actions"][:, 1:])
    assert torch.equal(got["ages"], batch["ages"][:, :-1])


def test_what_is_drawn_is_the_frame_after_the_action_and_the_frames_before_it(task, batch, monkeypatch):
    got = {}

    def spy(canvas, noisy, t, size):
        if not got:  # shortcut steps come after it
            got.update(previous=canvas.previous, noisy=noisy, t=t)
        return noisy

    monkeypatch.setattr(task.model.dynamics, "denoise", spy)
    monkeypatch.setattr(task.model, "_levels", lambda count, generator: torch.ones(count))
    assert evaluate(task, batch)["frame"] == 0  # a clean target that is passed on is right
    target = batch["latents"][:, 1:].float()  # (B, T, 1 + between, C, h, w)
    assert torch.equal(got["noisy"].unflatten(0, target.shape[:2]), target.flatten(2, 3))
    assert torch.equal(got["previous"].unflatten(0, target.shape[:2]), batch["latents"][:, :-1, 0].float())


def test_a_level_of_zero_is_pure_noise(task, batch, monkeypatch):
    got = {}
    monkeypatch.setattr(
        task.model.dynamics,
        "denoise",
        lambda canvas, noisy, t, size: got.setdefault("noisy", noisy),
    )
    monkeypatch.setattr(task.model, "_levels", lambda count, generator: torch.zeros(count))
    monkeypatch.setattr(task.model, "_shortcuts", lambda *args: torch.zeros(()))
    evaluate(task, batch)
    noisy = got.pop("noisy")
    evaluate(task, altered(batch, latents=-batch["latents"]))
    assert torch.equal(got["noisy"], noisy) and noisy.std() == pytest.approx(1, abs=0.05)


def test_places_count_more_where_the_frame_has_just_changed_and_nowhere_else():
    frames = torch.zeros(1, 4, 2, 5, 6)
    frames[0, 2:, :, 1, 4] = 2.0  # appears in the third frame and stays
    weight = dynamics_loss._weight(frames, 1.0, 12.0)
    assert weight.shape == (4, 1, 5, 6)
    expected = torch.ones(4, 1, 5, 6)
    expected[2, :, 0:3, 3:6] = 1 + 4.0  # what comes after that frame, there and beside
    torch.testing.assert_close(weight, expected)
    assert (
        dynamics_loss._weight(frames, 2.0, 12.0).max() == 1 + 8 and dynamics_loss._weight(frames, 9.0, 12.0).max() == 13
    )


def test_the_size_of_latents_does_not_change_what_a_place_counts(store, tmp_path, monkeypatch):
    """Thresholds are relative to the data: in twice the unit they are half as large."""
    latents = latent_store(store, tmp_path)
    stores = [latents, dataclasses.replace(latents, latents=np.asarray(latents.latents) * np.float16(2))]
    weights, longest = [], []
    for one in stores:
        model = narrow_dynamics_task([one], monkeypatch).model
        frames = torch.from_numpy(np.asarray(one.latents[:8, 0], np.float32))[None]
        c = model.config
        weights.append(dynamics_loss._weight(frames, c.change / model.change_scale, c.change_most))
        longest.append(c.own_frames_error * model.change_scale**0.5)
    assert weights[0].max() > 1.01
    torch.testing.assert_close(*weights, rtol=1e-3, atol=1e-3)
    assert longest[1] == pytest.approx(2 * longest[0], rel=1e-3)


def test_still_places_have_no_say_in_how_much_changes(store, tmp_path):
    episodes = latent_store(store, tmp_path)
    latents = np.zeros((episodes.latents.shape[0], 1, 4, 3, 5), np.float16)
    latents[::2, 0, :, 1, 1] = 3.0  # one place of fifteen changes by 3 at every step
    assert change_scale([dataclasses.replace(episodes, latents=latents)]) == pytest.approx(9.0)
    assert change_scale([dataclasses.replace(episodes, latents=np.zeros_like(latents))]) == 1.0


def test_what_is_to_come_does_not_change_what_a_place_counts(task, batch, monkeypatch):
    counted = []
    real = dynamics_loss._weight
    monkeypatch.setattr(dynamics_loss, "_weight", lambda *args: counted.append(real(*args)) or counted[-1])
    for last in (0.0, 5.0):
        latents = batch["latents"].clone()
        latents[:, -1] = last
        task.model(batch | {"latents": latents}, 0, torch.Generator().manual_seed(0))
    assert torch.equal(*counted) and counted[0].max() > 1


def test_a_shortcut_step_counts_more_where_it_leads_to_a_change(task, monkeypatch):
    sizes = task.model.dynamics.config
    grid = (2, sizes.channels, sizes.height, sizes.width)
    numbers = torch.arange(2.0)[:, None]  # the frames come in another order
    canvas = Canvas(torch.zeros(2, 1, 1), numbers, torch.zeros(grid), torch.zeros(2, 1, 1, 1))
    goal = torch.zeros(2, sizes.drawn_channels, *grid[2:])
    goal[1, : sizes.channels, 0, 0] = 2.0
    task.model.config, task.model.change_scale = LossConfig(shortcuts=1.0, change=2.0), 2.0
    for place, counts in (((0, 0), 1 + 4.0), ((0, 1), 1.0)):
        drawn = goal.clone()
        drawn[1, :, *place] += 1.0  # the only error

        def shortcut_targets(dynamics, some, target, generator, drawn=drawn):
            rows = some.cond[:, 0].long()
            return drawn[rows], goal[rows]

        monkeypatch.setattr(dynamics_loss, "shortcut_targets", shortcut_targets)
        loss = task.model._shortcuts(
            canvas, goal, torch.ones(2, 1, *grid[2:]), torch.full((2,), 0.5), torch.Generator()
        )
        assert loss.item() == pytest.approx(0.5 * counts / (grid[2] * grid[3]))


def given(batch):
    return _Given(batch["actions"][:, 1:], batch["ages"][:, :-1], {}, {}, {})


def test_own_frames_stand_where_the_frames_they_were_drawn_for_stood(task, batch, monkeypatch):
    task.model.config = LossConfig(own_frames=1.0)
    frames, target = (
        batch["latents"][:, :-1, 0].float(),
        batch["latents"][:, 1:].float().flatten(0, 1).flatten(1, 2),
    )
    arguments = frames, target, given(batch), torch.Generator().manual_seed(0)
    own = task.model._own_frames(*arguments)
    assert torch.equal(own[:, 0], frames[:, 0]) and ((own - frames)[:, 1:].abs().amax((2, 3, 4)) > 1e-4).all()
    monkeypatch.setattr(task.model, "_draw", lambda *args: target)
    torch.testing.assert_close(task.model._own_frames(*arguments)[:, 1:], frames[:, 1:])


def test_own_frames_know_what_happened(task, batch, monkeypatch):
    got = []
    monkeypatch.setattr(task.model, "_draw", lambda canvas, target, t, g: got.append(t) or target)
    frames, target = batch["latents"][:, :-1, 0].float(), batch["latents"][:, 1:].float().flatten(0, 1).flatten(1, 2)
    task.model._own_frames(frames, target, given(batch), torch.Generator().manual_seed(0))
    assert 0 < torch.cat(got).mean() < torch.cat(got).max() <= task.model.config.own_frames_from


def test_own_frames_err_by_less_than_what_can_happen_in_a_place(task, batch, monkeypatch):
    task.model.config = LossConfig(own_frames=1.0)
    frames, target = batch["latents"][:, :-1, 0].float(), batch["latents"][:, 1:].float().flatten(0, 1).flatten(1, 2)
    longest = task.model.config.own_frames_error * (task.model.change_scale * frames.shape[2]) ** 0.5
    there = torch.zeros_like(target)
    there[:, :, 0, 0] = 40 / target.shape[1] ** 0.5  # something that the model made up in one place
    there[:, 0, 1, 1] = longest / 2
    monkeypatch.setattr(task.model, "_draw", lambda *args: target + there)
    own = task.model._own_frames(frames, target, given(batch), torch.Generator().manual_seed(0))
    error = (own - frames)[:, 1:].norm(dim=2)
    assert 0 < longest < 40
    torch.testing.assert_close(error[..., 0, 0], torch.full_like(error[..., 0, 0], longest))
    torch.testing.assert_close(error[..., 1, 1], torch.full_like(error[..., 1, 1], longest / 2))


def test_own_frames_come_in_every_other_step_once_there_is_something_to_see(task, batch, monkeypatch):
    called = []
    own = task.model._own_frames
    monkeypatch.setattr(task.model, "_own_frames", lambda *args: called.append(1) or own(*args))
    after = task.model.config.own_frames_after
    counts = []
    for step, progress in ((0, 0.0), (1, 0.9 * after), (2, after), (3, after)):
        evaluate(task, batch, step=step, progress=progress)
        counts.append(len(called))
    assert counts == [0, 0, 0, 1]


def test_a_row_where_the_game_ends_carries_no_frame_loss(task, batch):
    ended = batch["terminated"].clone()
    ended[:, -1] = True
    other = batch["latents"].clone()
    other[:, -1] += 1
    one, two = (
        evaluate(task, altered(batch, terminated=ended, latents=latents)) for latents in (batch["latents"], other)
    )
    assert one == two
    going_on = [evaluate(task, altered(batch, latents=latents))["frame"] for latents in (batch["latents"], other)]
    assert going_on[1] > going_on[0] + 0.01


def test_rows_beyond_an_episode_carry_no_loss_at_all(task, batch):
    valid = batch["valid"].clone()
    valid[:, -2:] = False
    masked = altered(batch, valid=valid)
    other = altered(masked)
    other["latents"][:, -2:] += 1
    other["rewards"][:, -2:] += 5
    other["terminated"][:, -2:] = True
    other["event"][:, -2:] = ~other["event"][:, -2:]
    other["actions"][:, -2:] = (other["actions"][:, -2:] + 1) % 3
    assert evaluate(task, masked) == evaluate(task, other)
    other["ages"][:, -2:] += 1
    for name in ("latents", "rewards", "terminated", "event", "actions", "ages"):
        changed = altered(batch, **{name: other[name]})
        assert evaluate(task, changed)["loss"] != evaluate(task, batch)["loss"], name


def test_a_batch_in_which_nothing_counts_is_no_harm(task, batch):
    nothing = evaluate(task, altered(batch, valid=torch.zeros_like(batch["valid"])))
    assert nothing["loss"] == nothing["frame"] == nothing["ending"] == nothing["event"] == nothing["reward"] == 0


@pytest.mark.parametrize(("metric", "name"), [("reward", "rewards"), ("ending", "terminated"), ("event", "event")])
def test_rewards_and_endings_belong_to_the_row_they_are_in(task, batch, metric, name):
    first, last = batch[name].clone(), batch[name].clone()
    first[:, 0], last[:, -1] = 1 - first[:, 0].float(), 1 - last[:, -1].float()
    before = evaluate(task, batch)[metric]
    assert evaluate(task, altered(batch, **{name: first.to(batch[name].dtype)}))[metric] == before  # leads nowhere
    assert evaluate(task, altered(batch, **{name: last.to(batch[name].dtype)}))[metric] != before


def test_all_of_the_loss_counts_as_much_as_its_rows(task, batch):
    whole = evaluate(task, batch, step=2)  # a step with shortcut steps
    half = evaluate(task, altered(batch, weight=0.5 * batch["weight"]), step=2)
    for name in ("frame", "shortcut", "ending", "event", "reward"):
        assert half[name] == pytest.approx(0.5 * whole[name], rel=1e-3) and whole[name] > 0, name


def test_what_a_step_leads_to_is_told_without_some_features_in_training(task, batch, monkeypatch):
    kept = []
    told = task.model.dynamics.heads.forward

    def spy(tokens, inputs, keep=1.0):
        kept.append(keep)
        return told(tokens, inputs, keep)

    monkeypatch.setattr(task.model.dynamics.heads, "forward", spy)
    evaluate(task, batch)
    dropped = (kept[-1] == 0).float().mean()
    assert dropped == pytest.approx(task.model.config.outcome_dropout, abs=0.05)
    assert kept[-1].mean() == pytest.approx(1.0, abs=0.05)


def test_rewards_are_learned_in_units_of_their_usual_size(clips, monkeypatch):
    small = dataclasses.replace(clips, rewards=clips.rewards * 0.01)
    one, other = (narrow_dynamics_task([c], monkeypatch) for c in (clips, small))
    assert one.reward_scale == pytest.approx(1.0) and other.reward_scale == pytest.approx(0.01)
    assert loss_of(one, metric="reward") == pytest.approx(loss_of(other, metric="reward"), rel=1e-4)
    none = dataclasses.replace(clips, rewards=clips.rewards * 0)
    assert narrow_dynamics_task([none], monkeypatch).reward_scale == 1


def test_every_weight_is_trained(task):
    loss, _ = task.model(task.batch(0, 0), 0, torch.Generator().manual_seed(0))
    loss.backward()
    untouched = [n for n, p in task.model.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert untouched == []
