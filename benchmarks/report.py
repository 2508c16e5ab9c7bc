"""Where a figure comes from: every result is written with its machine, commit, versions and command."""

from __future__ import annotations

import datetime
import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

RESULTS = Path(__file__).parent / "results"
PACKAGES = (
    *("numpy", "onnxruntime", "openvino", "torch", "transformers"),
    *("open_clip_torch", "sentence-transformers", "accelerate"),
    *("lancedb", "pyarrow", "pillow", "tokenizers", "typer"),
    *("faiss-cpu", "numkong", "usearch"),
    *("openai", "xllamacpp"),
)


def publish(name: str, report: dict[str, Any]) -> None:
    """Write ``results/NAME.json``."""
    provenance = {
        "command": " ".join([f"python -m benchmarks.{name}", *(Path(one).name for one in sys.argv[1:])]),
        "commit": _git("rev-parse", "--short", "HEAD") + (" and changes" if _git("status", "--porcelain") else ""),
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "machine": f"{_processor()}, {os.cpu_count()} cores, {platform.system()}",
        "python": platform.python_version(),
        "versions": {package: _version(package) for package in PACKAGES},
    }
    RESULTS.mkdir(exist_ok=True)
    text = json.dumps({"provenance": provenance, "result": report}, indent=1, ensure_ascii=False)
    (RESULTS / f"{name}.json").write_text(text + "\n", encoding="utf-8")


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "not installed"


def _git(*arguments: str) -> str:
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, cwd=Path(__file__).parent, check=False)
    return done.stdout.strip()


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(":")[2].strip() for line in lines if line.startswith("model name")), "unknown")
