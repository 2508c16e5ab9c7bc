"""Where a run stands, on disk: enough to go on bit for bit, and no pickle.

``checkpoint/step-00000120.safetensors`` holds the network, the optimizer, the average and the states of the generators
of chance, as tensors; its metadata hold the rest as JSON. ``checkpoint/best-3.safetensors`` holds the weights of the
best epoch so far. Both are written aside and renamed: they are whole or not there. Then those before them are deleted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from mmrag.errors import InputError, ItemError
from mmrag.sources.pairs import Pair
from mmrag.stores.files import sync_to_disk
from mmrag.train import distributed
from mmrag.train.average import Average, fill, named_tensors
from mmrag.train.gradcache import random_state, set_random_state
from mmrag.train.recipe import TrainRecipe
from mmrag.train.step import Stepper
from mmrag.train.task import Figures

FOLDER_NAME = "checkpoint"
SAMPLED_PAIRS = 32
CHANGE_NOTHING = ("data.threads", "loop.save_every")


@dataclass
class State:
    """Where a run is, beside its weights.

    Attributes
    ----------
    step : int
        Steps done.
    best_epoch : int
        Whose weights would be kept; 0 is the start.
    best_score : float or None
        Its score; None before anything was measured.
    best_figures, start_figures : dict
        What was measured of it, and of the start.
    seconds : float
        How long the run has taken, over all its sessions.
    bad : dict of str to str
        Rows that could not be read, as JSON has numbers for keys, with the reason.
    """

    step: int = 0
    best_epoch: int = 0
    best_score: float | None = None
    best_figures: Figures = field(default_factory=dict)
    start_figures: Figures = field(default_factory=dict)
    seconds: float = 0.0
    bad: dict[str, str] = field(default_factory=dict)


class Checkpoints:
    """The checkpoints of one run.

    Parameters
    ----------
    out : path
        The folder of the run.
    identity : mapping
        What must be the same for a run to go on, from `identity`.
    network, stepper, average
        What is saved and restored.
    """

    def __init__(
        self, out: Path, identity: Mapping[str, Any], network: nn.Module, stepper: Stepper, average: Average
    ) -> None:
        self._folder = out / FOLDER_NAME
        self._identity = dict(identity)
        self._network, self._stepper, self._average = network, stepper, average
        self._saved: int | None = None

    def save(self, state: State, *, bad: Mapping[int, str]) -> None:
        """Write a checkpoint, with the rows that could not be read: the first process does, and all must call it."""
        state.bad = {str(row): reason for row, reason in dict(bad).items()}  # threads that read ahead add to it
        random = all_random_states(self._stepper.device)
        if distributed.rank() != 0 or self._saved == state.step:
            return
        parts = {
            "network": named_tensors(self._network),
            "optimizer": optimizer_tensors(self._stepper.optimizer),
            "average": self._average.tensors,
            "random": random,
        }
        tensors = {f"{part}/{name}": tensor for part, inside in parts.items() for name, tensor in inside.items()}
        scaler = self._stepper.scaler.state_dict()
        written = {"identity": self._identity, "scaler": scaler, "state": dataclasses.asdict(state)}
        name = f"step-{state.step:08d}.safetensors"
        self._write(name, tensors, {"run": json.dumps(written)})
        self._saved = state.step
        for path in self._folder.iterdir():
            if path.name not in (name, _best_name(state.best_epoch)):
                path.unlink()

    def load(self) -> State:
        """Put everything back as the newest checkpoint has it; without one, nothing, and the state is a new run's.

        Raises
        ------
        InputError
            If it was made with another recipe, other pairs or another number of processes, or cannot be read.
        """
        path = max(self._folder.glob("step-*.safetensors"), default=None)
        if path is None:
            return State()
        stored: dict[str, dict[str, Tensor]] = {"network": {}, "optimizer": {}, "average": {}, "random": {}}
        try:
            with safe_open(path, "pt") as file:
                written = json.loads(file.metadata()["run"])
                for name in file.keys():  # noqa: SIM118
                    part, _, inside = name.partition("/")
                    stored[part][inside] = file.get_tensor(name)
        except (OSError, SafetensorError) as error:
            raise InputError(f"{path} cannot be read: {error}; delete it to begin anew") from error
        refuse_difference(written["identity"], self._identity, where=path)
        fill(named_tensors(self._network), stored["network"], where=str(path))
        fill(self._average.tensors, stored["average"], where=str(path))
        load_optimizer(self._stepper.optimizer, stored["optimizer"])
        if written["scaler"]:
            self._stepper.scaler.load_state_dict(written["scaler"])
        set_random_state(own_random_state(stored["random"], self._stepper.device))
        self._saved = int(written["state"]["step"])
        return State(**written["state"])

    def save_best(self, epoch: int, weights: Mapping[str, Tensor]) -> None:
        """Write the weights of the best epoch so far."""
        self._write(_best_name(epoch), weights, {})

    def load_best(self, epoch: int) -> dict[str, Tensor]:
        """Read them back, to the CPU."""
        weights: dict[str, Tensor] = load_file(self._folder / _best_name(epoch))
        return weights

    def delete(self) -> None:
        """Delete all of them: the run is finished."""
        shutil.rmtree(self._folder, ignore_errors=True)

    def _write(self, name: str, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        partial = self._folder / "partial"
        save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, partial, metadata)
        sync_to_disk(partial)
        partial.replace(self._folder / name)
        sync_to_disk(self._folder)


def _best_name(epoch: int) -> str:
    return f"best-{epoch}.safetensors"


def optimizer_tensors(optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Name the optimizer's tensors ``NUMBER.NAME``, with the number of the parameter that they belong to."""
    state = optimizer.state_dict()["state"]
    return {f"{number}.{name}": tensor for number, one in state.items() for name, tensor in one.items()}


def load_optimizer(optimizer: torch.optim.Optimizer, tensors: Mapping[str, Tensor]) -> None:
    """Put back what `optimizer_tensors` gave."""
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        number, _, part = name.partition(".")
        state.setdefault(int(number), {})[part] = tensor
    optimizer.load_state_dict({**whole, "state": state})


def all_random_states(device: torch.device) -> dict[str, Tensor]:
    """Give the states of every process's generators, ``RANK.KIND``; all must call it."""
    gathered = {
        kind: distributed.gather(state[None].to(device)).cpu() for kind, state in sorted(random_state(device).items())
    }
    return {f"{rank}.{kind}": state for kind, states in gathered.items() for rank, state in enumerate(states)}


def own_random_state(states: Mapping[str, Tensor], device: torch.device) -> dict[str, Tensor]:
    """Pick this process's states out of all; a kind of device that the run was not on before keeps what it has."""
    own = random_state(device)
    return {kind: states.get(f"{distributed.rank()}.{kind}", state) for kind, state in own.items()}


def identity(recipe: TrainRecipe, pairs: Sequence[Pair], val: Sequence[Pair] | None) -> dict[str, Any]:
    """Say what a run is, so that another is not taken for it: flat, as JSON has it."""
    choices = json.loads(json.dumps(flat(dataclasses.asdict(recipe))))
    for key in CHANGE_NOTHING:
        del choices[key]
    held_out = describe_pairs(val) if val is not None else "none"
    return {**choices, "pairs": describe_pairs(pairs), "validation": held_out, "processes": distributed.world()}


def flat(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Join the keys of nested tables with dots."""
    entries: dict[str, Any] = {}
    for key, value in table.items():
        nested = flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {prefix + key: value}
        entries.update(nested)
    return entries


def describe_pairs(pairs: Sequence[Pair]) -> str:
    """Tell data apart by how many pairs there are and by a few of them."""
    digest = hashlib.blake2b(digest_size=8)
    for row in np.unique(np.linspace(0, len(pairs) - 1, SAMPLED_PAIRS).astype(int)) if len(pairs) else ():
        try:
            pair = pairs[int(row)]
            digest.update(repr((pair.id, pair.texts)).encode() + pair.image)
        except ItemError as error:
            digest.update(str(error).encode())
    return f"{len(pairs)} pairs ({digest.hexdigest()})"


def refuse_difference(before: Mapping[str, Any], now: Mapping[str, Any], *, where: Path) -> None:
    """Refuse to go on with something else.

    Raises
    ------
    InputError
        That names what differs.
    """
    different = [key for key in {**before, **now} if before.get(key) != now.get(key)]
    if different:
        key = different[0]
        more = f" (and {len(different) - 1} more differ: {', '.join(different[1:])})" if different[1:] else ""
        raise InputError(
            f"{where} was made with {key} = {before.get(key)!r}, not {now.get(key)!r}{more}; "
            "go on with what it was made with, or train into another folder"
        )
