"""The training loop learns, goes on after an interruption as if there had been none, loses no checkpoint."""

import os
import signal

import pytest
import torch
from small_training import brief, latent_store, loss_of, narrow_dynamics_task, tokenizer_task, train
from tiny import tiny_episodes
from train_on_ranks import LineTask

from worldsim.data.clips import ClipConfig
from worldsim.data.latents import encode_frames, load_tokenizer
from worldsim.errors import DamagedCheckpoint, InvalidInput, TrainingError
from worldsim.train.checkpoint import load_checkpoint, save_checkpoint
from worldsim.train.dynamics_loss import LossConfig
from worldsim.train.interrupts import Interrupted, Interrupts
from worldsim.train.loop import Budget, LoopConfig, Trainer
from worldsim.train.prefetch import Prefetch

pytestmark = pytest.mark.usefixtures("float32")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return tiny_episodes(tmp_path_factory.mktemp("data") / "tiny")


@pytest.fixture(params=["tokenizer", "dynamics"])
def make_task(request, store, tmp_path, monkeypatch):
    """A function that makes the task anew, as another process would."""
    if request.param == "tokenizer":
        return lambda **options: tokenizer_task(store, **options)
    clips, loss = latent_store(store, tmp_path / "cache"), LossConfig(own_frames_after=0.0)
    return lambda **options: narrow_dynamics_task([clips], monkeypatch, loss=loss, **options)


def state(trainer):
    """All that a checkpoint holds, as it was on disk."""
    tensors, meta = load_checkpoint(trainer.path)
    return {**tensors, "step": torch.tensor(meta["step"])}


def assert_same(one, other):
    assert one.keys() == other.keys()
    assert [name for name in one if not torch.equal(one[name], other[name])] == []


def test_an_interrupted_run_equals_an_uninterrupted_one_to_the_bit(make_task, tmp_path):
    whole = train(make_task(), brief(9), tmp_path / "whole")
    train(make_task(), brief(4), tmp_path / "parts")
    resumed = train(make_task(), brief(9), tmp_path / "parts", resume=True)
    one, other = state(whole), state(resumed)
    kinds = {name.split(".")[0] for name in one}
    assert kinds == {"model", "average", "optimizer", "step"} and one["step"] == 9
    assert_same(one, other)
    assert not torch.equal(*(next(t for n, t in one.items() if n.startswith(k)) for k in ("model.", "average.")))


def test_a_signal_ends_the_run_after_a_whole_step(make_task, tmp_path):
    whole = train(make_task(), brief(6), tmp_path / "whole")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        out, task = tmp_path / number.name, make_task()
        trainer = Trainer(task, brief(6), out, resume=False)
        interrupt_inside_step(trainer, 3, number)
        with pytest.raises(Interrupted) as stopped:
            trainer.run(lambda values, step: None, lambda frame, step: None)
        assert stopped.value.number == number
        assert state(trainer)["step"] == 4
        assert_same(state(train(make_task(), brief(6), out, resume=True)), state(whole))
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL


def test_a_second_signal_interrupts_at_once():
    before = signal.getsignal(signal.SIGINT)
    with Interrupts() as interrupts:
        os.kill(os.getpid(), signal.SIGTERM)
        assert interrupts.seen
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) == before


def interrupt_inside_step(trainer, step, number):
    update = trainer.average.update_parameters

    def interrupted(model):
        if trainer.step == step:
            os.kill(os.getpid(), number)
        update(model)

    trainer.average.update_parameters = interrupted


def test_training_gives_up_after_steps_that_teach_nothing_and_keeps_what_was_learned(make_task, tmp_path):
    task = make_task()
    forward, worst = task.model.forward, float("nan")
    task.model.forward = lambda batch, step, *rest: (
        forward(batch, step, *rest)[0] * (1 if step < 3 else worst),
        {},
    )
    trainer = Trainer(task, brief(40), tmp_path / "run", resume=False)
    with pytest.raises(TrainingError, match=r"stopped at step 3: .* not finite for 10 steps in a row"):
        trainer.run(lambda values, step: None, lambda frame, step: None)
    assert_same(state(trainer), state(train(make_task(), brief(3), tmp_path / "whole")))


def test_weights_that_broke_down_do_not_overwrite_the_checkpoint(make_task, tmp_path):
    before = state(train(make_task(), brief(3), tmp_path / "run"))
    again = Trainer(make_task(), brief(40), tmp_path / "run", resume=True)
    with torch.no_grad():
        for weights in again.model.parameters():
            weights.fill_(float("inf"))
    with pytest.raises(TrainingError):
        again.run(lambda values, step: None, lambda frame, step: None)
    assert_same(state(again), before)


def test_a_checkpoint_older_than_a_setting_is_gone_on_with(store, tmp_path, monkeypatch):
    clips = latent_store(store, tmp_path / "cache")
    task = narrow_dynamics_task([clips], monkeypatch)
    older = task.config()
    del older["model"]["action_start"]
    monkeypatch.setattr(task, "config", lambda: older)
    train(task, brief(2), tmp_path / "run")
    again = train(narrow_dynamics_task([clips], monkeypatch), brief(3), tmp_path / "run", resume=True)
    assert again.step == 3


@pytest.mark.parametrize("changed", [{"loss": LossConfig(reward_weight=0.2)}, {"clips": ClipConfig(changing=0.5)}])
def test_training_does_not_go_on_with_another_recipe(store, tmp_path, monkeypatch, changed):
    clips = latent_store(store, tmp_path / "cache")
    train(narrow_dynamics_task([clips], monkeypatch), brief(1), tmp_path / "run")
    with pytest.raises(DamagedCheckpoint, match=f"trained with another {next(iter(changed))}"):
        train(narrow_dynamics_task([clips], monkeypatch, **changed), brief(2), tmp_path / "run", resume=True)


def test_a_failure_inside_a_step_does_not_overwrite_the_checkpoint(make_task, tmp_path):
    trainer = train(make_task(), brief(3), tmp_path / "run")
    before = state(trainer)
    again = Trainer(make_task(), brief(6), tmp_path / "run", resume=True)

    def fail(model):
        raise RuntimeError("out of memory")

    again.average.update_parameters = fail
    with pytest.raises(RuntimeError, match="out of memory"):
        again.run(lambda values, step: None, lambda frame, step: None)
    assert_same(state(again), before)


def test_a_failure_between_steps_keeps_what_was_trained(make_task, tmp_path):
    task = make_task()
    batch = task.batch

    def broken(step, rank):
        if step == 4:
            raise OSError("the disk of the data is gone")
        return batch(step, rank)

    task.batch = broken
    with pytest.raises(OSError, match="is gone"):
        train(task, brief(6), tmp_path / "run")
    whole = train(make_task(), brief(6), tmp_path / "whole")
    assert_same(state(train(make_task(), brief(6), tmp_path / "run", resume=True)), state(whole))


def test_every_step_and_every_process_has_random_numbers_of_its_own(store, tmp_path):
    seeds = []
    for out, rank, start, stop in (("a", 0, 0, 4), ("a", 0, 4, 6), ("b", 1, 0, 6)):
        task = tokenizer_task(store)
        forward = task.model.forward

        def spy(batch, step, generator, progress, forward=forward):
            seeds.append(generator.initial_seed())
            return forward(batch, step, generator, progress)

        task.model.forward = spy
        trainer = Trainer(task, brief(stop), tmp_path / out, resume=start > 0)
        trainer.rank = rank
        trainer.run(lambda values, step: None, lambda frame, step: None)
    assert len(seeds) == len(set(seeds)) == 12


def test_batches_that_make_one_step_are_those_of_as_many_processes(store, tmp_path):
    line = LineTask()
    train(line, brief(4, accumulate=2), tmp_path / "apart")
    joined = LineTask(shares=2)
    train(joined, brief(4), tmp_path / "joined")
    torch.testing.assert_close(line.model.map.weight, joined.model.map.weight, rtol=1e-4, atol=1e-6)
    assert (LineTask().model.map.weight - line.model.map.weight).abs().max() > 0.01


def test_the_loss_falls(make_task, tmp_path):
    task = make_task(batch=8)
    before = loss_of(task)
    train(task, brief(40, lr=5e-3), tmp_path)
    assert loss_of(task) < 0.5 * before


def test_the_average_follows_the_weights(make_task, tmp_path):
    initial = {name: p.detach().clone() for name, p in make_task().model.named_parameters()}
    trainer = train(make_task(), brief(5), tmp_path)
    average = dict(trainer.average.module.named_parameters())
    ahead = [
        (average[name] - initial[name]).norm() < (p - initial[name]).norm()
        for name, p in trainer.model.named_parameters()
        if (p - initial[name]).norm() > 0
    ]
    assert sum(ahead) > 0.9 * len(ahead)


def test_the_average_is_the_running_one_of_the_weights_to_the_bit(make_task, tmp_path):
    """From the first step on, which counts for nine tenths, up to `ema`."""
    trainer, after = Trainer(make_task(), brief(6, ema=0.4), tmp_path, resume=False), []
    wanted = [p.detach().clone() for p in trainer.model.parameters()]
    update = trainer.average.update_parameters

    def note(model):
        after.append([p.detach().clone() for p in model.parameters()])
        update(model)

    trainer.average.update_parameters = note
    trainer.run(lambda values, step: None, lambda frame, step: None)
    for step, weights in enumerate(after):
        torch._foreach_lerp_(wanted, weights, 1 - min(0.4, (1 + step) / (10 + step)))
    assert len(after) == 6
    assert all(torch.equal(a, b) for a, b in zip(wanted, trainer.average.module.parameters(), strict=True))


def test_frames_are_of_the_averaged_weights_and_leave_the_others_alone(make_task, tmp_path):
    trainer = train(make_task(), brief(3), tmp_path)
    weights = {name: p.detach().clone() for name, p in trainer.model.named_parameters()}
    shown = []
    trainer.task.preview = lambda model: shown.extend(p.detach().clone() for _, p in model.named_parameters())
    trainer._preview()
    assert all(torch.equal(a, b) for a, b in zip(shown, trainer.average.module.parameters(), strict=True))
    assert all(torch.equal(p, weights[name]) for name, p in trainer.model.named_parameters())


def test_a_batch_that_overflows_costs_a_batch_and_not_the_run(store, tmp_path):
    task = tokenizer_task(store)
    good = train(task, brief(2), tmp_path)
    before = {name: p.detach().clone() for name, p in good.model.named_parameters()}
    real = task.model.forward
    task.model.forward = lambda *args: (real(*args)[0] * float("nan"), {})
    good._one(good.model, [task.batch(2, 0)], Budget(brief(9)))
    assert good.step == 3
    assert all(torch.equal(p, before[name]) for name, p in good.model.named_parameters())


# -- budget and batches


def test_the_learning_rate_warms_up_stays_and_cools_down():
    budget = Budget(LoopConfig(steps=100, lr=1.0, warmup=10, cooldown=0.2))
    assert [budget.lr(step) for step in (0, 4, 9, 50, 80)] == pytest.approx([0.1, 0.5, 1, 1, 1])
    assert [budget.lr(step) for step in (90, 99)] == pytest.approx([0.5, 0.05])
    assert Budget(LoopConfig(steps=100, lr=1.0, warmup=0)).lr(0) == 1


def test_without_a_number_of_steps_the_clock_decides(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("worldsim.train.loop.time.monotonic", lambda: now[0])
    budget = Budget(LoopConfig(hours=2.0, lr=1.0, warmup=1, cooldown=0.5), before=2 * 3600.0)
    assert budget.used(10**6) == 0 and budget.progress(0) == 0.5
    now[0] = 1.5 * 3600
    assert budget.used(0) == 0.75 and budget.progress(0) == 0.875 and budget.lr(5) == pytest.approx(0.5)
    now[0] = 3 * 3600
    assert budget.used(0) == 1


@pytest.mark.parametrize(
    "options",
    [{"hours": 0}, {"hours": -1}, {"steps": -1}, {"lr": 0}, {"warmup": -1}, {"cooldown": 1.5}, {"ema": 1.0}],
    ids=repr,
)
def test_options_that_make_no_sense_are_refused(options):
    with pytest.raises(InvalidInput, match=next(iter(options))):
        LoopConfig(**options)


def test_a_new_optimizer_warms_up_at_whatever_step_the_weights_are():
    config = brief(1000, warmup=10)
    assert Budget(config, first=500).lr(500) == pytest.approx(config.lr / 10)
    assert Budget(config, first=500).lr(509) == Budget(config).lr(500) == pytest.approx(config.lr)


def test_a_short_training_warms_up_in_a_share_of_its_budget(monkeypatch):
    budget = Budget(LoopConfig(steps=100, lr=1.0, warmup=1000, warmup_share=0.1, cooldown=0.0))
    assert [budget.lr(step) for step in (0, 5, 10, 99)] == pytest.approx([0.001, 0.5, 1, 1])
    now = [0.0]
    monkeypatch.setattr("worldsim.train.loop.time.monotonic", lambda: now[0])
    budget = Budget(LoopConfig(hours=0.1, lr=1.0, warmup=1000, warmup_share=0.1, cooldown=0.0), first=7)
    now[0] = 18.0
    assert budget.lr(7) == pytest.approx(0.5)


def test_the_loss_is_told_how_much_of_the_training_is_over(store, tmp_path):
    told, task = [], tokenizer_task(store)
    forward = task.model.forward
    task.model.forward = lambda *args: told.append(args[3]) or forward(*args)
    train(task, brief(2), tmp_path)
    train(task, brief(4), tmp_path, resume=True)
    assert told == [0, 0.5, 0.5, 0.75]


def test_no_steps_train_nothing(store, tmp_path):
    assert train(tokenizer_task(store), brief(0), tmp_path).step == 0


def test_batches_come_in_order_and_errors_surface_where_they_are_wanted():
    def make(step):
        if step == 5:
            raise ValueError("row 5")
        return step

    batches = Prefetch(make, 3)
    assert [batches.next(), batches.next()] == [3, 4]
    with pytest.raises(ValueError, match="row 5"):
        batches.next()
    batches.close()


# -- what is measured and not learned


def test_latents_have_rms_1_after_some_steps_whatever_the_encoder_says(store, tmp_path):
    trainer = train(tokenizer_task(store), brief(50), tmp_path)
    tokenizer = load_tokenizer(tmp_path, "cpu")
    fresh = tokenizer_task(store, batch=64).batch(100_000, 0)["frames"].flatten(0, 1).numpy()
    rms = encode_frames(tokenizer, fresh).square().mean().sqrt()
    assert abs(float(tokenizer.log_rms)) > 0.1 and float(rms) == pytest.approx(1, abs=0.05)
    assert torch.equal(trainer.average.module.tokenizer.log_rms, tokenizer.log_rms)


def test_a_tokenizer_whose_scale_was_learned_is_gone_on_with(store, tmp_path):
    """Its optimizer has a state for `log_rms`, before those of the other weights."""
    trainer = train(tokenizer_task(store), brief(3), tmp_path / "run")
    tensors, meta = load_checkpoint(trainer.path)
    old = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, index, key = name.split(".")
            name = f"optimizer.{int(index) + 1}.{key}"
        old[name] = tensor
    scalars = {key: torch.tensor(3.0) for key in ("step", "exp_avg", "exp_avg_sq")}
    save_checkpoint(trainer.path, old | {f"optimizer.0.{key}": value for key, value in scalars.items()}, meta)
    train(tokenizer_task(store), brief(6), tmp_path / "run", resume=True)
    whole = train(tokenizer_task(store), brief(6), tmp_path / "whole")
    assert_same(state(whole), load_checkpoint(trainer.path)[0] | {"step": torch.tensor(6)})
