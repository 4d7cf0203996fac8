"""`worldsim train actions`: what to do, and what was done, learned on the latents of a finished world."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import tyro

from worldsim.train.actions_task import ActionsLossConfig
from worldsim.train.loop import LoopConfig


@dataclass(frozen=True)
class ActionsCommand:
    """Train action tokens on the latents of a finished world, and write the world with them to the folder OUT/world.

    Its frames stay the same to the bit. The world can then act (`worldsim robot evaluate world:OUT/world`) and tell
    the actions of videos (`worldsim robot label`).
    """

    world: Annotated[str, tyro.conf.Positional]  # a shipped name, a local folder or a hub id
    data: tuple[Path, ...]  # episode stores; their latents are computed once and kept in the run's folder
    out: Path  # folder of the run
    batch: int = 64  # rows
    chunk: int = 4  # actions that are drawn together
    streams: tuple[str, ...] = ("proprio", "task")  # what is read besides frames, where it is known
    success: str = "success"  # stream that says whether the task is done, if there is one
    loss: ActionsLossConfig = field(default_factory=ActionsLossConfig)
    resume: bool = False
    loop: Annotated[LoopConfig, tyro.conf.arg(name="")] = field(default_factory=LoopConfig)

    def run(self) -> None:
        """Cache the latents, train, and pack the world."""
        from worldsim.cli.train import fit, open_stores
        from worldsim.data.latents import cache_latents
        from worldsim.models.action_tokens import ActionTokensConfig
        from worldsim.train.actions_task import ActionsTask, check_actor, pack_actions
        from worldsim.world import World

        world = World.from_pretrained(self.world, device=self.loop.device)
        check_actor(world, self.streams)
        tokenizer = world.tokenizer.float()  # as its weights are bf16, of which float32 holds all
        stores = open_stores(self.data)
        clips = []
        for store in stores:
            names = dict.fromkeys((*self.streams, *({self.success} & {*store.streams})))
            clips.append(cache_latents(tokenizer, store, self.out, self.loop.device, streams=tuple(names)))
        config = ActionTokensConfig(chunk=self.chunk, streams=self.streams)
        task = ActionsTask(
            clips, world, config, batch=self.batch, success=self.success, seed=self.loop.seed, loss=self.loss
        )
        if fit(task, self.loop, self.out, self.resume).rank == 0:
            pack_actions(self.world, self.out, self.out / "world")
            print(f"wrote {self.out / 'world'}")
