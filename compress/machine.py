"""What this machine is: processor, cores, BLAS; nothing is timed here."""

from __future__ import annotations

import math
import os
import platform
from dataclasses import dataclass
from pathlib import Path

from threadpoolctl import threadpool_info  # type: ignore[import-untyped]  # ships no stubs

# What decides which number formats are fast, by the names of /proc/cpuinfo.
FORMAT_FLAGS = (
    *("avx2", "fma", "f16c", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8"),
    *("avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16"),
    *("asimd", "asimddp", "i8mm", "bf16", "sve"),
)
UNKNOWN = "unknown"
CPUINFO = Path("/proc/cpuinfo")
CGROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class Processor:
    """The processor.

    Attributes:
        model: its name, or ``unknown``.
        flags: those of ``FORMAT_FLAGS`` that it has; None where the system does not say.
    """

    model: str
    flags: tuple[str, ...] | None


@dataclass(frozen=True, slots=True)
class Cores:
    """How much of the machine this process may use.

    Attributes:
        usable: processors that it may be scheduled on.
        limit: processors' worth of time that its control group is given; None without a limit.
    """

    usable: int
    limit: float | None

    @property
    def threads(self) -> int:
        """How many threads can run at a time."""
        return self.usable if self.limit is None else max(1, min(self.usable, int(self.limit)))


def processor(cpuinfo: Path = CPUINFO) -> Processor:
    """The processor, from Linux's own description; elsewhere the name that Python knows."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return Processor(platform.processor() or platform.machine() or UNKNOWN, None)
    entries: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        entries.setdefault(key.strip(), value.strip())  # those of the first core
    told = entries.get("flags", entries.get("Features"))
    has = None if told is None else set(told.split())
    return Processor(
        entries.get("model name") or platform.machine() or UNKNOWN,
        None if has is None else tuple(flag for flag in FORMAT_FLAGS if flag in has),
    )


def cores(cgroup: Path = CGROUP) -> Cores:
    """The cores of this process, and the limit of its control group, of either version."""
    try:
        usable = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        usable = os.cpu_count() or 1
    return Cores(usable, _limit(cgroup))


def blas() -> tuple[str, int]:
    """NumPy's BLAS with its kernels, such as ``openblas 0.3.30 SkylakeX``, and its threads."""
    libraries = [found for found in threadpool_info() if found["user_api"] == "blas"]
    if not libraries:
        return UNKNOWN, 1
    # SciPy, where something else loaded it, brings a library of its own.
    found = next((one for one in libraries if "numpy" in one["filepath"]), libraries[0])
    words = (found["internal_api"], found["version"], found.get("architecture"))
    return " ".join(str(word) for word in words if word), int(found["num_threads"])


# ----- below


def _limit(cgroup: Path) -> float | None:
    """Quota by period: of version 2 in one file, of version 1 in two."""
    for files in (("cpu.max",), ("cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us")):
        try:
            words = " ".join((cgroup / file).read_text() for file in files).split()
            quota, period = float(words[0]), float(words[1])
        except (OSError, ValueError, IndexError):
            continue  # another version, or "max"
        return quota / period if quota > 0 and math.isfinite(quota) and period > 0 else None
    return None
