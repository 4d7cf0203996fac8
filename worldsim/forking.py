"""Processes that were forked from one that had computed: PyTorch's threads hang in them."""

from __future__ import annotations

import os

import torch

from worldsim.errors import InvalidState

_computed = False  # whether this process has computed with several threads, and so made a pool of them
_inherited = False  # whether it was forked from one that had; the pool's threads do not come along, and are waited for


def refuse_if_forked() -> None:
    """Raise InvalidState where computing would wait for ever for threads that stayed in the parent process.

    To be called before a world computes. A process that computes with a single thread is sound.
    """
    global _computed
    if torch.get_num_threads() == 1:
        return
    if _inherited:
        raise InvalidState(
            "this process was forked from one that had computed with several threads, without which PyTorch hangs "
            'here; start processes otherwise (context="forkserver" or "spawn", for gym.make_vec in vector_kwargs), or '
            "step all worlds in one process (WorldVectorEnv)"
        )
    _computed = True


def _note_fork() -> None:
    global _inherited
    _inherited = _inherited or _computed


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_fork)
