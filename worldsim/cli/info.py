"""`worldsim info`: a doctor; what this machine has and can do, what is missing and how to get it."""

from __future__ import annotations

import ctypes.util
import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from worldsim.io.files import write_json


@dataclass(frozen=True)
class Part:
    """Something that worldsim can use and can do without."""

    name: str  # of the distribution
    serves: str
    fix: str  # how to get it
    module: str = ""  # what to import to see whether it loads; "": its presence is enough
    also: tuple[str, ...] = ()  # other distributions of the same thing


# Debian's packages of the libraries that the parts load from the system.
PACKAGES = {
    "libGL.so.1": "libgl1", "libEGL.so.1": "libegl1", "libX11.so.6": "libx11-6", "libgomp.so.1": "libgomp1",
    "libusb-1.0.so.0": "libusb-1.0-0",
}  # fmt: skip
OPEN3D = f'pip install "worldsim[spatial]"; sudo apt-get install -y {" ".join(PACKAGES.values())}'
PROBE_SECONDS = 60
PARTS = (
    Part("pygame-ce", "worldsim play", 'pip install "worldsim[play]"', "pygame"),
    Part("stable-baselines3", "training agents", 'pip install "worldsim[rl]"'),
    Part("tensorboard", "worldsim train", 'pip install "worldsim[train]"'),
    Part("matplotlib", "plots", 'pip install "worldsim[eval]"'),
    Part("scipy", "worldsim eval, scores of agents", 'pip install "worldsim[eval]"'),
    Part("torchmetrics", "worldsim eval", 'pip install "worldsim[eval]"'),
    Part("huggingface-hub", "worlds from the hub", 'pip install "worldsim[hub]"'),
    Part("open3d-cpu", "memory as a 3D map", OPEN3D, "open3d", also=("open3d",)),
)


@dataclass(frozen=True)
class Finding:
    """One line of the report on optional parts."""

    name: str
    state: str  # "ok", "missing" or "broken"
    detail: str  # version, or what is wrong
    serves: str
    fix: str = ""


def info(json: Path | None = None) -> None:
    """Report versions, devices, and optional parts that are missing with how to get them.

    Args:
        json: also write the report to this file.
    """
    machine, required = describe_machine(), required_versions()
    findings = [examine(part) for part in (*PARTS, *simulators())]
    findings += [examine_sound(), examine_compiler(), examine_display()]
    warnings = conflicts()
    print(_report(machine, required, findings, warnings))
    if json is not None:
        optional = [asdict(finding) for finding in findings]
        write_json(json, {**machine, "required": required, "optional": optional, "warnings": warnings})


def simulators() -> list[Part]:
    """What the registered sources need, one part for all that need the same."""
    from worldsim.envs.sources import SOURCES

    needed = dict.fromkeys(entry.package for entry in SOURCES.values() if entry.package)
    return [
        Part(package.name, f"recording {' and '.join(served)}", package.fix, package.module)
        for package in needed
        if (served := [name for name, entry in SOURCES.items() if entry.package == package])
    ]


def describe_machine() -> dict[str, Any]:
    """Versions of worldsim and Python, the processor and the CUDA devices."""
    import torch

    import worldsim
    from worldsim.runtime.devices import autocast_dtype

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_available() else ()
    return {
        "worldsim": worldsim.__version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": cores,
        "torch_threads": torch.get_num_threads(),
        "bf16": autocast_dtype(torch.device("cpu")) == torch.bfloat16,
        "cuda": [torch.cuda.get_device_name(i) for i in devices],
        "torch_built_for_cuda": torch.version.cuda,
    }


def processor_name() -> str:
    """The processor's name as the system gives it."""
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(encoding="utf-8"), re.MULTILINE)
    except OSError:
        found = None
    return found[1] if found else platform.processor() or platform.machine()


def required_versions() -> dict[str, str | None]:
    """Version of everything that worldsim cannot do without; None where it is missing."""
    try:
        lines = importlib.metadata.requires("worldsim") or []
    except importlib.metadata.PackageNotFoundError:  # imported from a folder without being installed
        lines = []
    names = [re.match(r"[\w.-]+", line) for line in lines if "extra ==" not in line]
    return {name[0]: version(name[0]) for name in names if name}


def version(distribution: str) -> str | None:
    """The installed version of a distribution, if any; imports nothing."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def examine(part: Part) -> Finding:
    """Whether a part is there and loads."""
    name = next((one for one in (part.name, *part.also) if version(one)), None)
    if name is None:
        return Finding(part.name, "missing", "not installed", part.serves, part.fix)
    trouble = probe(part.module) if part.module else ""
    if trouble:
        return Finding(name, "broken", trouble, part.serves, repair(name, trouble))
    return Finding(name, "ok", version(name) or "", part.serves)


def probe(module: str) -> str:
    """Import a module in a process of its own, which a bad library may crash; what went wrong, or ""."""
    try:
        done = run_python(f"import {module}")
    except (OSError, subprocess.SubprocessError) as error:
        return f"import {module} did not finish ({error})"
    if done.returncode == 0:
        return ""
    lines = done.stderr.strip().splitlines()
    return lines[-1] if lines else f"import {module} ended with status {done.returncode}"


def run_python(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a new interpreter like this one."""
    quiet = {**os.environ, "PYGAME_HIDE_SUPPORT_PROMPT": "1"}
    command = [sys.executable, "-c", code]
    options: dict[str, Any] = {"env": quiet, "capture_output": True, "timeout": PROBE_SECONDS, "check": False}
    return subprocess.run(command, encoding="utf-8", errors="replace", **options)


def repair(distribution: str, trouble: str) -> str:
    """How to mend a part that is installed and does not load."""
    library = re.search(r"lib[\w.+-]+\.so[.\d]*", trouble)
    if library and library[0] in PACKAGES:
        return f"sudo apt-get install {PACKAGES[library[0]]}"
    return f"pip install --force-reinstall --no-deps {distribution}"


def examine_sound() -> Finding:
    """OpenAL, without which simulators record silence."""
    found = ctypes.util.find_library("openal")
    serves = "recording sound"
    if found:
        return Finding("OpenAL", "ok", found, serves)
    return Finding("OpenAL", "missing", "no such system library", serves, "sudo apt-get install libopenal1")


def examine_compiler() -> Finding:
    """A C++ compiler, as PyTorch looks for one."""
    serves = "compiled worlds"
    found = shutil.which(os.environ.get("CXX") or "g++") or shutil.which("clang++")
    if found:
        return Finding("C++ compiler", "ok", found, serves)
    return Finding("C++ compiler", "missing", "no g++, no clang++", serves, "sudo apt-get install g++")


def examine_display() -> Finding:
    """Whether a window can open."""
    serves = "worldsim play"
    fix = "set DISPLAY, or use `xvfb-run -a worldsim play …`, or `worldsim rollout`, which needs no display"
    named = next((f"{n}={os.environ[n]}" for n in ("WAYLAND_DISPLAY", "DISPLAY") if os.environ.get(n)), "")
    if version("pygame-ce") is None:
        return Finding("display", "ok" if named else "missing", named or "none", serves, "" if named else fix)
    try:
        done = run_python("import pygame; pygame.display.init(); print(pygame.display.get_driver())")
    except (OSError, subprocess.SubprocessError) as error:
        return Finding("display", "broken", f"opening it did not finish ({error})", serves, fix)
    driver = (done.stdout.strip().splitlines() or [""])[-1]
    if done.returncode == 0 and driver not in ("offscreen", "dummy"):
        return Finding("display", "ok", f"{driver} {named}".strip(), serves)
    return Finding("display", "missing", f"{named} does not answer" if named else "none", serves, fix)


def conflicts() -> list[str]:
    """Pairs of distributions that break each other."""
    if version("pygame") is None:
        return []
    fix = "pip uninstall -y pygame pygame-ce && pip install pygame-ce"
    beside = "beside pygame-ce" if version("pygame-ce") else "in place of pygame-ce"
    return [f'"pygame" {version("pygame")} is installed {beside}; they overwrite each other: {fix}']


def _report(
    machine: dict[str, Any], required: dict[str, str | None], findings: list[Finding], warnings: list[str]
) -> str:
    cuda = ", ".join(machine["cuda"]) or "none, worlds run on the processor"
    bf16 = "is used" if machine["bf16"] else "is not in hardware or switched off, fp32 is used"
    lines = [
        f"worldsim {machine['worldsim']}, Python {machine['python']} ({machine['executable']})",
        f"  system     {machine['platform']}",
        f"  processor  {machine['processor']}, {machine['cores']} cores, bf16 {bf16}",
        f"  torch      {machine['torch_threads']} threads",
        f"  CUDA       {cuda}",
        "",
        "required     " + ", ".join(f"{name} {found or 'MISSING'}" for name, found in required.items()),
        "",
        "optional",
    ]
    for f in findings:
        lines.append(f"  {f.state:8s} {f.name:18s} {f.detail}  ({f.serves})")
        if f.fix:
            lines.append(f"  {'':8s} {'':18s} -> {f.fix}")
    lines += [f"warning: {warning}" for warning in warnings]
    return "\n".join(lines)
