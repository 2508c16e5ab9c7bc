"""Image backbones of timm's, run by torch: they see pictures and read no words."""

from __future__ import annotations

import difflib
import importlib.util
import json
import math
import os
import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrag.errors import MissingExtraError, ModelError
from mmrag.models import cache
from mmrag.models.cards import Card, Source, hash_files, revision_of
from mmrag.models.network import import_torch
from mmrag.models.preprocess import Preprocessing, Transform
from mmrag.models.torch_encoder import TorchEncoder
from mmrag.roles import Identity

if TYPE_CHECKING:
    from torch import Tensor, nn

RANDOM = "random"
"""After a slash behind the name: weights that are as good as none, for measuring speed."""

_RESAMPLE = {"bilinear": 2, "bicubic": 3}


class TimmEncoder(TorchEncoder):
    """A backbone without its classifier: what it gives to that is a picture's vector.

    Parameters
    ----------
    name : str
        As timm names it, such as "resnet18.a1_in1k".
    folder : path or None
        Its files in timm's layout for a hub, ``config.json`` among them; None for random weights.

    Raises
    ------
    MissingExtraError
        If the extra is not installed.
    ModelError
        If the folder is damaged, or the model gives no single vector.
    """

    def __init__(self, name: str, folder: Path | None) -> None:
        self._source = f"local-dir:{folder}" if folder else name
        self._name, self._folder = name, folder
        torch = import_torch()
        with torch.device("meta"):  # shapes, without weights
            empty = self._create(pretrained=False)
            config = import_timm().data.resolve_model_data_config(empty)
            shape = tuple(empty(torch.zeros(1, *config["input_size"])).shape)
        self.preprocessing = _preprocessing(config)
        if len(shape) != 2:
            raise ModelError(f"{name} gives {' × '.join(map(str, shape))} numbers for a picture, not one vector")
        weights = hash_files(folder, [folder / "config.json", *_weight_files(folder)]) if folder else RANDOM
        self.card = Card(
            name=name,
            family="timm",
            revision=revision_of(weights),
            dimension=shape[1],
            modalities=("image",),
            summary=f"{name} of timm, without its classifier.",
            licence_code="Apache-2.0",
            licence_weights=str(empty.pretrained_cfg.get("license") or "As whoever trained them says."),
            sources=(
                Source(
                    f"timm, {name}{cache.at_commit(folder) if folder else ''}",
                    "code Apache-2.0; weights as their card says",
                ),
            ),
        )
        self.identity = Identity(
            name=name,
            revision=self.card.revision,
            weights=weights,
            preprocessing=str(self.preprocessing),
            dimension=self.card.dimension,
        )

    def load_network(self) -> nn.Module:
        """Read the weights from disk, into single precision on the CPU."""
        torch = import_torch()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            network: nn.Module = self._create(pretrained=self._folder is not None)
        return network

    def _create(self, *, pretrained: bool) -> Any:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of its own deprecated names
                return import_timm().create_model(self._source, pretrained=pretrained, num_classes=0).eval()
        except Exception as error:  # a folder of something else, a damaged file, an architecture of a newer timm
            raise ModelError(f"timm cannot load {self._name}: {error}") from error

    def image_vectors(self, network: Any, pixels: Tensor) -> Tensor:
        """Embed ``(n, 3, height, width)`` into ``(n, dimension)``."""
        vectors: Tensor = network(pixels)
        return vectors


def open_timm(reference: str) -> TimmEncoder:
    """Open a name of timm's whose weights are here, a folder in timm's layout, or ``NAME/random``."""
    folder = Path(reference).expanduser()
    if reference.startswith((".", "/", "~")) or (folder / "config.json").is_file():
        if not (folder / "config.json").is_file():
            raise ModelError(f"{reference} is not a folder of timm's: it has no config.json")
        return TimmEncoder(_architecture(folder), folder.resolve())
    name, _, weights = reference.partition("/")
    timm = import_timm()
    if weights not in ("", RANDOM) or not timm.is_model(name):
        near = ", ".join(difflib.get_close_matches(name, timm.list_models(), n=4)) or "none"
        raise ModelError(
            f"timm has no model {reference!r}; near it are: {near}. Write timm:NAME, timm:./FOLDER or timm:NAME/random"
        )
    if weights == RANDOM:
        return TimmEncoder(name, None)
    about = timm.get_pretrained_cfg(name, allow_unregistered=False)
    found = cache.snapshot(about.hf_hub_id) if about and about.hf_hub_id else None
    if found is None or cache.missing(found):
        raise ModelError(f"timm:{name} is not here; fetch it: mmrag models pull timm:{name}")
    return TimmEncoder(name, found)


def _architecture(folder: Path) -> str:
    """Read what a folder's model is called: an index must know it wherever it lies."""
    path = folder / "config.json"
    try:
        return str(json.loads(path.read_text(encoding="utf-8"))["architecture"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ModelError(f"timm cannot load {folder}: {path} names no architecture") from error


def _weight_files(folder: Path) -> list[Path]:
    files = [*folder.glob("*.safetensors"), *folder.glob("*.bin")]
    return sorted(path for path in files if os.path.isfile(path))


def _preprocessing(config: dict[str, Any]) -> Preprocessing | Transform:
    """Prepare pictures as ``timm.data.create_transform`` does."""
    _, height, width = config["input_size"]
    scaled = math.floor(height / config["crop_pct"])
    centred = config["crop_mode"] == "center" and height == width
    squashed = config["crop_mode"] == "squash" and config["crop_pct"] == 1
    if not (centred or squashed) or config["interpolation"] not in _RESAMPLE:
        transform = import_timm().data.create_transform(**config, is_training=False)
        return Transform(transform, height, width, f"timm {config}")
    return Preprocessing(
        height=height,
        width=width,
        resample=_RESAMPLE[config["interpolation"]],
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
        shortest_edge=scaled if centred else None,
        crop_to_nearest=centred,
    )


def import_timm() -> Any:
    """Import timm, or tell which extra brings it."""
    if importlib.util.find_spec("timm") is None:
        raise MissingExtraError("timm", "torch")
    try:
        import timm
    except Exception as error:
        raise ModelError(
            f"timm is installed, but importing it fails ({error}). Usually torch and torchvision do not fit each "
            "other: install both from one index, as uv does: uv pip install 'mmrag[torch]'"
        ) from error
    return timm
