"""The machine a figure was measured on: what it is, how many threads it may use, and its key.

Times of two environments with different keys are never compared.
"""

import os
import platform
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

from harness.store import key_of, package_versions

FLAGS = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx512_bf16", "amx_int8", "amx_bf16")
_IDENTITY = (
    "cpu",
    "flags",
    "threads",
    "governor",
    "system",
    "machine",
    "python",
    "packages",
    "gpu",
)


def usable_threads() -> int:
    """Cores this process may really use: the smaller of its affinity mask and its CPU quota."""
    cores = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    quota = _cpu_quota()
    return max(1, min(cores, int(quota)) if quota else cores)


def _cpu_quota() -> float | None:
    """Cores granted by the control group (version 2, then 1); None when not limited."""
    limit = _read("/sys/fs/cgroup/cpu.max")
    if limit and not limit.startswith("max"):
        quota, period = limit.split()
        return int(quota) / int(period)
    quota_v1 = _read("/sys/fs/cgroup/cpu/cpu.cfs_quota_us")
    period_v1 = _read("/sys/fs/cgroup/cpu/cpu.cfs_period_us")
    if quota_v1 and period_v1 and int(quota_v1) > 0:
        return int(quota_v1) / int(period_v1)
    return None


def _read(path: str) -> str | None:
    try:
        return Path(path).read_text().strip()
    except OSError:
        return None


def _cpu_facts() -> dict[str, str]:
    lines = (_read("/proc/cpuinfo") or "").splitlines()
    pairs = (line.split(":", 1) for line in lines if ":" in line)
    facts: dict[str, str] = {}
    for name, value in pairs:
        facts.setdefault(name.strip(), value.strip())
    return facts


def _ask(*command: str) -> str | None:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


@cache
def environment() -> dict[str, Any]:
    """Facts of this machine and installation, JSON-ready; what can't be read is None."""
    cpu = _cpu_facts()
    model = cpu.get("model name") or platform.processor() or platform.machine()
    identity = " ".join(filter(None, (model, *(cpu.get(k) for k in ("cpu family", "model")))))
    present = set(cpu.get("flags", "").split())
    facts = {
        "cpu": identity,
        "flags": [flag for flag in FLAGS if flag in present],
        "cores": os.cpu_count(),
        "threads": usable_threads(),
        "quota": _cpu_quota(),
        "governor": _read("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor"),
        "memory_bytes": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"),
        "system": platform.system(),
        "kernel": platform.release(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "packages": {**package_versions(), "openvino": _package("openvino")},
        "gpu": _ask("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader"),
        "commit": commit(),
    }
    return {**facts, "key": environment_key(facts)}


def environment_key(facts: dict[str, Any]) -> str:
    """Key over what decides speed; two runs with the same key may be compared."""
    return key_of(**{name: facts.get(name) for name in _IDENTITY})[:12]


def _package(name: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(name)
    except PackageNotFoundError:
        return None


def commit() -> str | None:
    """The project's git commit, with ``+`` when files differ from it; None outside a checkout."""
    root = str(Path(__file__).parent.parent)
    head = _ask("git", "-C", root, "rev-parse", "--short=12", "HEAD")
    if head is None:
        return None
    changed = _ask("git", "-C", root, "status", "--porcelain", "--untracked-files=no")
    return f"{head}+" if changed else head
