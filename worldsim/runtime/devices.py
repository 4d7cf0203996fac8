"""Which device and which number format to compute in: chosen at run time, never at import."""

from __future__ import annotations

import os
from pathlib import Path

import torch

from worldsim.errors import InvalidInput

BF16 = "WORLDSIM_BF16"  # variable of the environment: 0 computes in fp32, as processors without bf16 do


def choose_device(name: str = "auto") -> torch.device:
    """`auto` takes CUDA where there is one; any torch device name is accepted."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise InvalidInput(f"device {name!r} is unknown; use 'auto', 'cpu' or 'cuda'") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise InvalidInput(f"device {name!r} was asked for, but torch sees no CUDA device; use 'cpu' or 'auto'")
    return device


def cpu_has_bf16() -> bool:
    """Whether the processor multiplies bf16 in hardware (AVX-512 BF16 or AMX; on Linux)."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def autocast_dtype(device: torch.device) -> torch.dtype:
    """bf16 where the hardware has it and `WORLDSIM_BF16` is not 0, else fp32."""
    if os.environ.get(BF16) == "0":
        return torch.float32
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float32
    return torch.bfloat16 if device.type == "cpu" and cpu_has_bf16() else torch.float32
