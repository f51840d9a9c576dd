"""What the machine tells about processes: CPU time, memory, children. Linux only; else None."""

from __future__ import annotations

import os
import platform
import sys
import time
from collections.abc import Iterable
from pathlib import Path

LINUX = sys.platform == "linux"


def cpu_seconds(pids: Iterable[int]) -> float | None:
    """User and system time of processes with all their threads, ended ones too.

    Reads the process's CPU clock, the sum that /proc/PID/stat shows in ticks of 10 ms, in
    nanoseconds. The clock's number is the kernel's (posix-timers.h: ~pid << 3 | CPUCLOCK_SCHED).
    """
    if not LINUX:
        return None
    return sum(time.clock_gettime(~pid << 3 | 2) for pid in pids)


def resident_mb(pids: Iterable[int]) -> float | None:
    """Resident memory in MB (10^6 bytes), pages shared between the processes counted for each."""
    if not LINUX:
        return None
    pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in pids)
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def family(pid: int) -> list[int]:
    """A process and its children, for servers that work in child processes."""
    if not LINUX:
        return [pid]
    # The kernel lists them by the thread that started them.
    lists = Path(f"/proc/{pid}/task").glob("*/children")
    return [pid, *(int(child) for one in lists for child in one.read_text().split())]


def description() -> str:
    """The machine, without a name."""
    return (
        f"{os.cpu_count()} cores, {platform.system()} {platform.machine()}, "
        f"{platform.python_implementation()} {platform.python_version()}"
    )
