"""How busy this machine is, from /proc: Triton's nv_cpu_* figures."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class Memory:
    """The machine's memory, bytes."""

    total: int
    used: int


class CpuClock:
    """The share of all cores that was busy since it was last asked."""

    def __init__(self, proc: Path = _PROC) -> None:
        self._proc = proc
        self._last = (0, 0)

    def utilization(self) -> float | None:
        """0 to 1; the first time since the machine started. None where there is no /proc."""
        try:
            line = (self._proc / "stat").read_text().partition("\n")[0]
        except OSError:
            return None
        # user nice system idle iowait irq softirq steal; guest time is in user already (proc(5)).
        ticks = [int(field) for field in line.split()[1:9]]
        now = (sum(ticks), ticks[3] + ticks[4])
        total, idle = now[0] - self._last[0], now[1] - self._last[1]
        self._last = now
        return min(1.0, max(0.0, 1 - idle / total)) if total > 0 else 0.0


def memory(proc: Path = _PROC) -> Memory | None:
    """The machine's memory; what the kernel could give back counts as free.

    None where there is no /proc.
    """
    try:
        lines = (proc / "meminfo").read_text().splitlines()
    except OSError:
        return None
    kib = {line.partition(":")[0]: int(line.split()[1]) for line in lines}
    return Memory(kib["MemTotal"] * 1024, (kib["MemTotal"] - kib["MemAvailable"]) * 1024)
