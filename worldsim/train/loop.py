"""One training loop for every model: time-budgeted, resumable to the bit, on one process or many (torchrun).

Nothing random survives between steps: a batch and its noise are functions of (seed, step, rank). So weights, average,
optimizer and step number are all there is to save.
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from worldsim.errors import DamagedCheckpoint, InvalidInput, TrainingError
from worldsim.runtime.devices import autocast_dtype
from worldsim.train.checkpoint import load_checkpoint, load_optimizer, optimizer_tensors, save_checkpoint
from worldsim.train.interrupts import Interrupts
from worldsim.train.muon import Muon
from worldsim.train.prefetch import Prefetch
from worldsim.train.record import TrainingRecord

REPORTED = 20  # steps between points of the loss curve
OPTIMIZERS: dict[str, type[torch.optim.AdamW]] = {"adamw": torch.optim.AdamW, "muon": Muon}
MOST_SKIPPED = 10  # steps in a row whose numbers are not finite, before training gives up


class Task(Protocol):
    """What the loop asks of a model's training."""

    kind: str  # "tokenizer", "dynamics": names files and checks what is resumed
    frames_per_batch: int

    @property
    def model(self) -> nn.Module:
        """What is trained; its forward is `(batch, step, generator, progress) -> (loss, metrics)`.

        `progress` is the share of the training that is over, 0 to 1."""
        ...

    def config(self) -> dict[str, Any]:
        """JSON-able settings that a resumed run must share."""
        ...

    def batch(self, step: int, rank: int) -> dict[str, Tensor]:
        """The batch of a step on one process: a pure function of its arguments."""
        ...

    def measure(self, averaged: nn.Module) -> None:
        """Set what the averaged model measures instead of learning; a function of its weights, called before saving."""
        ...

    def preview(self, averaged: nn.Module) -> Any:
        """An image (H, W, 3) uint8 that shows what the averaged model can do now."""
        ...


@dataclass(frozen=True)
class LoopConfig:
    """How long and how fast to train."""

    hours: float = 1.0  # wall-clock budget of this call
    steps: int | None = None  # stop at this step instead, whatever the time
    optimizer: Literal["adamw", "muon"] = "adamw"  # muon: see worldsim.train.muon
    lr: float = 1e-3
    warmup: int = 200  # steps over which the learning rate rises
    warmup_share: float = 0.1  # of the budget, over which it rises if that is shorter
    cooldown: float = 0.2  # last part of the budget, over which the learning rate falls to zero
    weight_decay: float = 0.01
    max_norm: float = 1.0  # of the gradient
    ema: float = 0.999  # of the averaged weights, the ones that are used
    accumulate: int = 1  # batches of each process that make one step; memory is that of one of them
    seed: int = 0
    save_minutes: float = 5.0  # between checkpoints
    preview_minutes: float = 5.0  # between sample images
    device: str = "auto"

    def __post_init__(self) -> None:
        for name, good, wanted in (
            ("hours", self.hours > 0, "more than 0"),
            ("accumulate", self.accumulate >= 1, "1 or more"),
            ("steps", self.steps is None or self.steps >= 0, "0 or more"),
            ("optimizer", self.optimizer in OPTIMIZERS, " or ".join(OPTIMIZERS)),
            ("lr", self.lr > 0, "more than 0"),
            ("warmup", self.warmup >= 0, "0 or more"),
            ("warmup_share", 0 <= self.warmup_share <= 1, "a share from 0 to 1"),
            ("cooldown", 0 <= self.cooldown <= 1, "a share from 0 to 1"),
            ("ema", 0 <= self.ema < 1, "0 or more and less than 1"),
        ):
            if not good:
                raise InvalidInput(f"training option {name} is {getattr(self, name)}; give {wanted}")


class Budget:
    """How much of the budget is used, 0 to 1: by steps if they are given, else by the clock."""

    def __init__(self, config: LoopConfig, first: int = 0, before: float = 0.0) -> None:
        self.config = config
        self.first = first  # step at which the optimizer was new
        self.before = before  # seconds of earlier calls
        self.started = time.monotonic()

    def used(self, step: int) -> float:
        """The fraction that is gone before `step` is done."""
        if self.config.steps is not None:
            return min(step / self.config.steps, 1.0) if self.config.steps else 1.0
        return min((time.monotonic() - self.started) / (self.config.hours * 3600), 1.0)

    def progress(self, step: int) -> float:
        """The fraction of the whole training that is over before `step` is done, earlier calls included, 0 to 1."""
        used, seconds = self.used(step), self.config.hours * 3600
        return used if self.config.steps is not None else (self.before + used * seconds) / (self.before + seconds)

    def lr(self, step: int) -> float:
        """Warm-up, plateau, linear cool-down."""
        c = self.config
        rise = (step - self.first + 1) / max(c.warmup, 1)
        if c.warmup_share > 0:  # a training of minutes has few steps
            begun = self.used(self.first) if c.steps is not None else 0.0
            rise = max(rise, (self.used(step) - begun) / c.warmup_share)
        fall = min((1.0 - self.used(step)) / c.cooldown, 1.0) if c.cooldown > 0 else 1.0
        return c.lr * min(rise, 1.0) * fall


class Trainer:
    """A model, its average and its optimizer, with a checkpoint folder."""

    def __init__(self, task: Task, config: LoopConfig, out: Path, *, resume: bool) -> None:
        self.task, self.config, self.out = task, config, Path(out)
        self.rank, self.world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
        self.device = self._device()
        self.model = task.model.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.average = AveragedModel(self.model, multi_avg_fn=self._toward)
        self.average.n_averaged += 1  # begins as a copy; else the first update would be another one
        self.optimizer = OPTIMIZERS[config.optimizer](
            self.model.parameters(), lr=config.lr, betas=(0.9, 0.98), weight_decay=config.weight_decay
        )
        self.step = 0
        self._skipped = 0  # steps in a row whose numbers were not finite
        self._whole = True  # False while a step changes weights, average and optimizer one after the other
        self.path = self.out / f"{task.kind}.safetensors"
        self.record = TrainingRecord(self.out / f"{task.kind}.json")
        if resume:
            self._load()
        elif self.path.exists():
            raise InvalidInput(f"{self.path} exists; add --resume to go on training it, or choose another --out")

    def _device(self) -> torch.device:
        from worldsim.runtime.devices import choose_device

        device = choose_device(self.config.device)
        if device.type == "cuda":
            device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        if self.world > 1 and not dist.is_initialized():
            dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
        return device

    def _load(self) -> None:
        tensors, meta = load_checkpoint(self.path)
        if meta.get("kind") != self.task.kind:
            raise DamagedCheckpoint(
                f"checkpoint {self.path} is of a {meta.get('kind')}, not of a {self.task.kind}; give another --out"
            )
        config = self._settings()
        for key, value in ({"optimizer": "adamw"} | meta["config"]).items():  # one unpacked from a world says less
            if not _agrees(config.get(key), value):
                raise DamagedCheckpoint(
                    f"checkpoint {self.path} was trained with another {key} ({value} instead of {config.get(key)}); "
                    "use the same options, or another --out"
                )
        average = {n[8:]: t for n, t in tensors.items() if n.startswith("average.")}
        try:
            if average.keys() != self.model.state_dict().keys():
                raise ValueError("its average is of other weights")
            self.model.load_state_dict({n[6:]: t for n, t in tensors.items() if n.startswith("model.")}, strict=True)
            self.average.module.load_state_dict(average, strict=True)
            load_optimizer(self.optimizer, tensors)
        except (RuntimeError, ValueError, KeyError) as error:
            raise DamagedCheckpoint(
                f"checkpoint {self.path} does not fit the model ({' '.join(str(error).split())}); use the worldsim "
                "version that wrote it, or another --out"
            ) from error
        self.step = meta["step"]

    def save(self) -> None:
        """Write the checkpoint and the training record; not in the middle of a step, which no one could resume."""
        if self.rank or not self._whole:
            return
        with torch.no_grad():
            self.task.measure(self.average.module)
        tensors = {f"model.{n}": t for n, t in self.model.state_dict().items()}
        tensors |= {f"average.{n}": t for n, t in self.average.module.state_dict().items()}
        tensors |= optimizer_tensors(self.optimizer)
        save_checkpoint(self.path, tensors, {"kind": self.task.kind, "step": self.step, "config": self._settings()})
        self.record.save()

    def _settings(self) -> dict[str, Any]:
        """What a resumed run must share."""
        return self.task.config() | {"optimizer": self.config.optimizer}

    def _toward(self, averages: Any, weights: Any, _: Any) -> None:
        """Move the averages towards the weights of this step: by more in the first steps, which are worth little."""
        decay = min(self.config.ema, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(averages, weights, 1 - decay)

    def run(self, log: Callable[[dict[str, float], int], None], show: Callable[[Any, int], None]) -> None:
        """Train until the budget is used; saves at intervals, at the end, and when interrupted.

        Raises Interrupted on Ctrl-C, SIGTERM or SIGHUP, after the step that was being made, and TrainingError where
        step after step teaches nothing because its numbers are not finite; what is saved then is what was learned.
        """
        # Weights of an unpacked world come without an optimizer's state, which has to be found again.
        before = sum(call["seconds"] for call in self.record.calls)
        budget = Budget(self.config, first=0 if self.optimizer.state else self.step, before=before)
        ddp = DistributedDataParallel(self.model) if self.world > 1 else self.model
        self.record.begin_call(self.step)
        bar = tqdm(unit="frame", unit_scale=True, disable=self.rank > 0, desc=self.task.kind, mininterval=2.0)
        saved = shown = time.monotonic()
        batches = Prefetch(lambda step: [self.task.batch(step, share) for share in self._shares()], self.step)
        hidden: tuple[type[Exception], ...] = ()  # errors of the last saving, where an earlier one is to be told
        with Interrupts() as interrupts:
            try:
                while not self._agree(budget.used(self.step) >= 1.0 or interrupts.seen):
                    metrics = self._one(ddp, batches.next(), budget)
                    now = time.monotonic()
                    if self.step % REPORTED == 0:
                        metrics = self._mean(metrics)
                    if self.rank == 0:
                        self._report(bar, metrics, budget, log)
                        if now - saved > self.config.save_minutes * 60:
                            self.record.note_time(now - budget.started, self.step)  # counts if the power fails
                            self.save()
                            saved = now
                        if now - shown > self.config.preview_minutes * 60:
                            show(self._preview(), self.step)
                            shown = time.monotonic()
            except Exception:
                hidden = (InvalidInput,)
                raise
            finally:
                batches.close()
                bar.close()
                self.record.note_time(time.monotonic() - budget.started, self.step)
                with contextlib.suppress(*hidden):
                    self.save()
        interrupts.raise_if_seen()
        if self.rank == 0:
            show(self._preview(), self.step)

    def _agree(self, done: bool) -> bool:
        """All processes stop at the same step: the first one's clock decides."""
        return bool(self._shared(float(done)))

    def _shared(self, value: float) -> float:
        """The first process's number on all of them, whose clocks differ."""
        if self.world == 1:
            return value
        number = torch.tensor([value], device=self.device)
        dist.broadcast(number, 0)
        return float(number.item())

    def _mean(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Of all processes, whose batches differ."""
        if self.world == 1:
            return metrics
        values = torch.stack([value.float() for value in metrics.values()])
        dist.all_reduce(values)
        return dict(zip(metrics, values / self.world, strict=True))

    def _shares(self) -> range:
        """The batches of a step that are this process's.

        They and their noise are numbered over all processes: 2 processes learn from what 1 does that accumulates 2.
        """
        return range(self.rank, self.rank + self.world * self.config.accumulate, self.world)

    def _one(self, ddp: nn.Module, batches: list[dict[str, Tensor]], budget: Budget) -> dict[str, Tensor]:
        for group in self.optimizer.param_groups:
            group["lr"] = budget.lr(self.step)
        progress = self._shared(budget.progress(self.step))
        self.optimizer.zero_grad(set_to_none=True)
        parts: list[dict[str, Tensor]] = []
        for share, batch in zip(self._shares(), batches, strict=True):
            # Gradients are averaged over processes with the last batch only.
            last = len(parts) + 1 == len(batches)
            apart = isinstance(ddp, DistributedDataParallel) and not last
            with ddp.no_sync() if apart else contextlib.nullcontext():  # type: ignore[operator]
                parts.append(self._learn(ddp, batch, share, progress))
        return self._update({name: torch.stack([part[name] for part in parts]).mean(0) for name in parts[0]})

    def _learn(self, ddp: nn.Module, batch: dict[str, Tensor], share: int, progress: float) -> dict[str, Tensor]:
        """Add the gradients of one batch; returns its loss and metrics."""
        generator = torch.Generator(device=self.device)
        generator.manual_seed((self.config.seed * 1_000_003 + self.step) * 1_009 + share)
        batch = {name: tensor.to(self.device, non_blocking=True) for name, tensor in batch.items()}
        dtype = autocast_dtype(self.device)
        with torch.autocast(self.device.type, dtype, enabled=dtype != torch.float32):
            loss, metrics = ddp(batch, self.step, generator, progress)
        (loss / self.config.accumulate).backward()
        return {"loss": loss.detach(), **metrics}

    def _update(self, metrics: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take the step that the gradients say."""
        norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.max_norm)
        self._whole = False
        if torch.isfinite(norm):  # a rare overflow loses one batch, not the run
            self.optimizer.step()
            self.average.update_parameters(self.model)
            self._skipped = 0
        else:
            self._skipped += 1
        self.step += 1
        self._whole = True
        if self._skipped == MOST_SKIPPED:
            self._give_up()
        return {"gradient_norm": norm, **metrics}

    def _give_up(self) -> None:
        """Go back to the last step that was learned from, whose weights these still are, and raise TrainingError."""
        self.step -= self._skipped
        self._whole = all(bool(torch.isfinite(p).all()) for p in self.model.parameters())  # else nothing is saved
        raise TrainingError(
            f"training the {self.task.kind} stopped at step {self.step}: its loss or gradient was not finite for "
            f"{self._skipped} steps in a row; look for extreme rewards, actions or frames in the data, or lower --lr "
            f"(now {self.config.lr:g}), and go on with --resume"
        )

    def _report(
        self, bar: Any, metrics: dict[str, Tensor], budget: Budget, log: Callable[[dict[str, float], int], None]
    ) -> None:
        bar.update(self.task.frames_per_batch * self.world * self.config.accumulate)
        if self.step % REPORTED:
            return
        values = {name: float(value) for name, value in metrics.items()}
        values["frames_per_s"] = bar.format_dict["rate"] or 0.0
        log(values, self.step)
        self.record.add(self.step, values)
        used = budget.used(self.step)
        left = bar.format_dict["elapsed"] * (1 - used) / max(used, 1e-6) / 60
        bar.set_postfix_str(f"loss {values['loss']:.4f}, {left:.0f} min left")

    def _preview(self) -> Any:
        with torch.no_grad():
            return self.task.preview(self.average.module)


def _agrees(now: Any, then: Any) -> bool:
    """Whether settings are those of a checkpoint, which does not name the ones that came to be after it."""
    if isinstance(now, dict) and isinstance(then, dict):
        return all(_agrees(now.get(key), value) for key, value in then.items())
    return bool(now == then)
