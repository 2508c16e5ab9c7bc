"""What can be trained, by the names that recipes use."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from mmrag.errors import InputError
from mmrag.train.task import Task

TASKS = {
    "contrastive": "mmrag.train.tasks.contrastive:open_contrastive",
    "blip": "mmrag.train.tasks.blip:open_blip",
    "blip2-stage1": "mmrag.train.tasks.blip2_stage1:open_stage1",
    "blip2-stage2": "mmrag.train.tasks.blip2_stage2:open_stage2",
    "builtin-encoder": "mmrag.train.tasks.builtin:open_encoder",
    "builtin-chinese": "mmrag.train.tasks.chinese:open_chinese",
    "builtin-words": "mmrag.train.tasks.miniature:open_miniature",
}


def open_task(name: str, *, start: str, settings: Mapping[str, Any], where: str = "settings") -> Task:
    """Open what a recipe trains.

    Parameters
    ----------
    name : str
        A name in `TASKS`.
    start : str
        The model to begin with: a name that `mmrag models` lists, a folder, or FAMILY:NAME.
    settings : mapping
        The table ``[settings]`` of the recipe; each task has a closed schema of its own.
    where : str
        Named in errors.

    Raises
    ------
    InputError
        If there is no such task.
    RecipeError
        If the settings do not fit its schema.
    ModelError
        If the start is not here, or is of a kind that this task cannot train.
    """
    if name not in TASKS:
        raise InputError(f"there is no task {name!r}; known: {', '.join(TASKS)}")
    module, _, opener = TASKS[name].partition(":")
    task: Task = getattr(importlib.import_module(module), opener)(start, settings, where=where)
    return task
