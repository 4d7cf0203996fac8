"""Muon: matrices take orthogonal steps, vectors those of AdamW."""

import pytest
import torch
from small_training import brief, fixed_tokenizer, train
from tiny import tiny_episodes
from torch import nn

from worldsim.data.latents import cache_latents
from worldsim.errors import DamagedCheckpoint, InvalidInput
from worldsim.train.decoder_task import DecoderTask, lighter
from worldsim.train.loop import LoopConfig, Trainer
from worldsim.train.muon import SPECTRAL, Muon, orthogonal

LR = 1e-3


@pytest.mark.parametrize("shape", [(8, 8), (4, 40), (40, 4)])
def test_singular_values_come_near_one(shape):
    values = torch.linalg.svdvals(orthogonal(torch.randn(shape, generator=torch.Generator().manual_seed(0))))
    assert values.min() > 0.3 and values.max() < 1.3


def test_a_convolution_moves_by_its_spectral_norm_and_a_bias_as_in_adamw():
    torch.manual_seed(0)
    ours, theirs = nn.Conv2d(4, 8, 3), nn.Conv2d(4, 8, 3)
    theirs.load_state_dict(ours.state_dict())
    before, x = ours.weight.detach().clone(), torch.randn(2, 4, 6, 6)
    options = {"lr": LR, "betas": (0.9, 0.98), "weight_decay": 0.0}
    for conv, kind in ((ours, Muon), (theirs, torch.optim.AdamW)):
        optimizer = kind(conv.parameters(), **options)
        conv(x).square().mean().backward()
        optimizer.step()
    moved = torch.linalg.svdvals((ours.weight.detach() - before).flatten(1)) / (SPECTRAL * LR)
    assert moved.min() > 0.3 and moved.max() < 1.3
    assert torch.equal(ours.bias, theirs.bias) and not torch.equal(ours.weight, theirs.weight)


def test_a_run_resumes_to_the_bit_and_with_no_other_optimizer(tmp_path, float32):
    tokenizer, episodes = fixed_tokenizer(), tiny_episodes(tmp_path / "data")
    clips = cache_latents(tokenizer, episodes, tmp_path, "cpu")

    def task():
        return DecoderTask([clips], tokenizer, lighter(tokenizer.config, (6, 8)), batch=2)

    whole = train(task(), brief(6, optimizer="muon"), tmp_path / "whole").model.state_dict()
    train(task(), brief(3, optimizer="muon"), tmp_path / "parts")
    parts = train(task(), brief(6, optimizer="muon"), tmp_path / "parts", resume=True).model.state_dict()
    assert all(torch.equal(whole[name], parts[name]) for name in whole)
    with pytest.raises(DamagedCheckpoint, match=r"another optimizer \(muon instead of adamw\)"):
        Trainer(task(), brief(9), tmp_path / "parts", resume=True)


def test_an_unknown_optimizer_is_refused():
    with pytest.raises(InvalidInput, match="optimizer is sgd; give adamw or muon"):
        LoopConfig(optimizer="sgd")
