"""What this process may use of the machine."""

import ctypes
import os
import platform
from contextlib import suppress


def usable_cores() -> int:
    """Count the processors that this process may run on."""
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def processor() -> str:
    """Name the processor, as well as the system tells it."""
    with suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def keep_freed_memory() -> None:
    """Ask glibc to keep memory that is freed: fetching the same gigabytes again halves the speed of a step."""
    top_pad, mmap_max, trim_threshold = -2, -4, -1  # malloc.h
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # not glibc
        return
    mallopt(mmap_max, 0)
    mallopt(trim_threshold, -1)
    mallopt(top_pad, 512 << 20)
