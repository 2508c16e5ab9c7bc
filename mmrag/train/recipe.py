"""How to train: a TOML file → frozen dataclasses, one for each of its tables."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from mmrag.errors import RecipeError
from mmrag.recipe import build, find_named, read_toml


@dataclass(frozen=True)
class DataPart:
    """The table ``[data]``: how pairs become batches.

    Attributes
    ----------
    batch_size : int
        Pairs in a step of the optimizer, over all processes and parts. Fewer pairs than that make one step an epoch.
    threads : int
        How many of them decode pictures, in each process; changes nothing but the speed.
    text_key : str or None
        The key that holds the texts, as `mmrag.sources.pairs` takes it.
    seed : int
        Decides everything that is random.
    """

    batch_size: int = 128
    threads: int = 2
    text_key: str | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        _at_least(1, "data", batch_size=self.batch_size, threads=self.threads)
        _at_least(0, "data", seed=self.seed)


@dataclass(frozen=True)
class OptimizerPart:
    """The table ``[optimizer]``: AdamW and the course of its rate.

    Attributes
    ----------
    learning_rate : float
        Highest rate of what begins pretrained.
    fresh_learning_rate : float or None
        Highest rate of what begins without; None is `learning_rate`.
    layer_decay : float in (0, 1]
        Each layer towards the input learns at this share of the rate of the one after it.
    weight_decay : float
        Of matrices and filters; biases, norms and the temperature are not decayed.
    betas : two floats in [0, 1)
        How long AdamW remembers gradients, and their squares.
    warmup : float in [0, 1)
        Share of the steps in which the rates rise.
    schedule : {"cosine", "one_cycle", "constant"}
        What follows; see `mmrag.train.optimizer.rate_share`.
    clip_norm : float
        Gradients that are longer together are shortened to this; 0 leaves them.
    """

    learning_rate: float = 1e-5
    fresh_learning_rate: float | None = None
    layer_decay: float = 1.0
    weight_decay: float = 0.05
    betas: tuple[float, ...] = (0.9, 0.98)
    warmup: float = 0.1
    schedule: Literal["cosine", "one_cycle", "constant"] = "cosine"
    clip_norm: float = 1.0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        rates = (
            self.learning_rate,
            self.learning_rate if self.fresh_learning_rate is None else self.fresh_learning_rate,
        )
        if min(rates) <= 0:
            raise RecipeError("optimizer: learning_rate and fresh_learning_rate must be above 0")
        if not 0 < self.layer_decay <= 1:
            raise RecipeError(f"optimizer: layer_decay must be above 0 and at most 1, not {self.layer_decay}")
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise RecipeError(f"optimizer: betas must be two numbers from 0 to below 1, not {list(self.betas)}")
        _share("optimizer", warmup=self.warmup)
        _at_least(0, "optimizer", weight_decay=self.weight_decay, clip_norm=self.clip_norm)


@dataclass(frozen=True)
class LoopPart:
    """The table ``[loop]``: how long, in what precision, and what is kept.

    Attributes
    ----------
    epochs : int
        How often each picture is seen.
    precision : {"fp32", "bf16", "fp16"}
        What networks compute in; weights and optimizer stay in float32. fp16 scales its loss.
    accumulate : int
        In how many parts, one after another, the gradients of a step are computed. A loss that is a mean over samples
        has the gradients of the whole batch; a contrastive loss sees only the part's own negatives: use `grad_cache`.
    grad_cache : int
        Pairs that are embedded at once, while the contrastive loss sees all of the batch; 0 embeds them all at once.
    checkpoint_gradients : bool
        Whether activations are computed again on the way back instead of kept: a third more time, far less memory.
    average : float in [0, 1)
        What is measured and kept is a moving average of the weights; this share of it stays in every step.
        0 keeps the weights themselves.
    tower_share : float in (0, 1]
        How far from the start towards where training went the pretrained weights that are kept lie (WiSE-FT,
        https://arxiv.org/abs/2109.01903); below 1, a model forgets less of what the pairs do not show.
    patience : int
        Ends the run after so many epochs without a better score; 0 never does. Needs validation pairs.
    save_every : int
        Steps between two checkpoints, besides one after each epoch; 0 makes no others.
    """

    epochs: int = 10
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    accumulate: int = 1
    grad_cache: int = 0
    checkpoint_gradients: bool = False
    average: float = 0.0
    tower_share: float = 1.0
    patience: int = 0
    save_every: int = 0

    def __post_init__(self) -> None:
        """Refuse what cannot be."""
        _at_least(1, "loop", epochs=self.epochs, accumulate=self.accumulate)
        _at_least(0, "loop", grad_cache=self.grad_cache, patience=self.patience, save_every=self.save_every)
        _share("loop", average=self.average)
        if not 0 < self.tower_share <= 1:
            raise RecipeError(f"loop: tower_share must be above 0 and at most 1, not {self.tower_share}")
        if self.grad_cache and self.accumulate > 1:
            raise RecipeError("loop: grad_cache and accumulate both divide a batch; set accumulate = 1")


@dataclass(frozen=True)
class TrainRecipe:
    """How to train.

    Attributes
    ----------
    task : str
        A name in `mmrag.train.tasks.TASKS`.
    start : str
        The model to begin with: a name that `mmrag models` lists, a folder, or FAMILY:NAME.
    settings : dict
        The table ``[settings]``; each task has a closed schema of its own.
    data, optimizer, loop
        The other tables.
    """

    task: str
    start: str
    settings: dict[str, Any] = field(default_factory=dict)
    data: DataPart = field(default_factory=DataPart)
    optimizer: OptimizerPart = field(default_factory=OptimizerPart)
    loop: LoopPart = field(default_factory=LoopPart)


def load_recipe(name: str, *, changes: Mapping[str, Any] | None = None) -> TrainRecipe:
    """Load a recipe that ships with mmrag by its name ("clip"), or anyone's by a path that ends in ``.toml``.

    Parameters
    ----------
    name : str
        Which one.
    changes : mapping or None
        Values that take the place of the file's, by keys with dots: ``{"optimizer.learning_rate": 1e-4}``.

    Raises
    ------
    RecipeError
        If there is no such recipe, or it or a change does not fit the schema.
    """
    table = read_toml(find_named("trainers", name))
    for key, value in (changes or {}).items():
        _set(table, key, value)
    return build(TrainRecipe, table, where=name)


def read_change(written: str) -> tuple[str, Any]:
    """Read ``KEY=VALUE``; values are as in TOML, and words need no quotes.

    Raises
    ------
    RecipeError
        If there is no ``=``, or no key before it.

    Examples
    --------
    >>> read_change("loop.epochs=3"), read_change("start=./my-model")
    (('loop.epochs', 3), ('start', './my-model'))
    """
    key, equals, value = written.partition("=")
    if not equals or not all(part.strip() for part in key.split(".")):
        raise RecipeError(f"a change is KEY=VALUE, such as optimizer.learning_rate=1e-4, not {written!r}")
    return key.strip(), _value(value.strip())


def _set(table: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    for parent in parents:
        inner = table.setdefault(parent, {})
        if not isinstance(inner, dict):
            raise RecipeError(f"{key} cannot be set: {parent} is no table, it is {inner!r}")
        table = inner
    table[last] = value


def _value(written: str) -> Any:
    try:
        return tomllib.loads(f"value = {written}")["value"]
    except tomllib.TOMLDecodeError:
        return written


def _at_least(least: int, where: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if number < least:
            raise RecipeError(f"{where}: {name} must be at least {least}, not {number}")


def _share(where: str, **numbers: float) -> None:
    for name, number in numbers.items():
        if not 0 <= number < 1:
            raise RecipeError(f"{where}: {name} must be from 0 to below 1, not {number}")
