"""Commands run in turns, each timed from its start to its end."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

MMRAG = (sys.executable, "-m", "mmrag")


def environment(cache: Path) -> dict[str, str]:
    """Make an environment with a cache folder of its own, in which Python keeps its bytecode as it does by default."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    root = str(Path(__file__).resolve().parents[1])
    return {**kept, "XDG_CACHE_HOME": str(cache), "PYTHONPATH": root, "HF_HUB_OFFLINE": "1"}


def seconds(command: Sequence[str | Path], *, cwd: Path, env: Mapping[str, str]) -> float:
    """Run a command and give how long it took."""
    start = time.perf_counter()
    done = subprocess.run(command, cwd=cwd, env=dict(env), capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{command} failed: {done.stderr[-2000:]}")
    return time.perf_counter() - start


def in_turns(
    commands: Mapping[str, Sequence[str | Path]],
    *,
    cwd: Mapping[str, Path],
    env: Mapping[str, Mapping[str, str]],
    rounds: int,
) -> dict[str, float]:
    """Run commands in turns, after a first round that is not counted; the median seconds of each."""
    times: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(rounds + 1):
        for name, command in commands.items():
            taken = seconds(command, cwd=cwd[name], env=env[name])
            if turn:
                times[name].append(taken)
    return {name: statistics.median(values) for name, values in times.items()}
