"""Models for the contracts: those that are there by name, and tiny ones that are made on the spot."""

from __future__ import annotations

import importlib
import os

import pytest

from mmrag.models.registry import open_model


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
