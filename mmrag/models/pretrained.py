"""What transformers makes of a checkpoint: configuration, network, tokenizer, preprocessing. Nothing is downloaded."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.errors import ModelError
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.network import import_transformers
from mmrag.models.preprocess import Preprocessing, Transform
from mmrag.models.tokens import Tokens

if TYPE_CHECKING:
    import torch
    from PIL import Image

logger = logging.getLogger("mmrag")

# No code of a model's author is ever run, and nothing is looked for on a hub.
_HERE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}

# Their first position is the one behind the padding token's number.
_POSITIONS_BEHIND_PADDING = ("roberta", "camembert", "mpnet", "altclip", "data2vec", "longformer")

_STEPS = ("_preprocess", "resize", "center_crop", "rescale", "normalize")


def read_config(checkpoint: Checkpoint) -> Any:
    """Read the configuration as transformers does, with all that it takes for granted.

    Raises
    ------
    ModelError
        If this version of transformers does not know the model, or the file is damaged.
    """
    transformers = import_transformers()
    try:
        return transformers.AutoConfig.from_pretrained(checkpoint.path, **_HERE)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"transformers {transformers.__version__} cannot read the configuration of {checkpoint.reference}: {error}"
        ) from error


def model_class(config: Any) -> Any:
    """Tell which class of transformers' computes a model; None if there is none."""
    mapping = import_transformers().models.auto.modeling_auto.MODEL_MAPPING
    return mapping.get(type(config), None)


def load_pretrained(checkpoint: Checkpoint, kind: Any) -> torch.nn.Module:
    """Load a network, all of it, into single precision on the CPU.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where the weights lie: as safetensors, or as pickles of which nothing but weights is read.
    kind : class
        Of transformers'.

    Raises
    ------
    ModelError
        If a file is missing or damaged, or lacks a part of the network.
    """
    try:
        network, report = kind.from_pretrained(
            checkpoint.path,
            dtype="float32",
            use_safetensors=checkpoint.has_safetensors,
            weights_only=True,
            output_loading_info=True,
            **_HERE,
        )
    except Exception as error:  # of transformers, safetensors, torch and pickle
        raise ModelError(f"the weights of {checkpoint.reference} cannot be loaded: {error}") from error
    missing = sorted(report["missing_keys"]) + [str(key) for key in report["mismatched_keys"]]
    if missing:
        raise ModelError(
            f"the weights of {checkpoint.reference} are not all there: {len(missing)} are missing or of another "
            f"shape, the first is {missing[0]}. Fetch the model again: mmrag models pull hf:{checkpoint.reference}"
        )
    return network  # type: ignore[no-any-return]


def longest_text(checkpoint: Checkpoint, config: Any) -> int:
    """Tell how many tokens a text tower reads: as many as it has positions, or fewer if the tokenizer says so."""
    positions = getattr(config, "max_position_embeddings", None) or math.inf
    if any(kind in config.model_type for kind in _POSITIONS_BEHIND_PADDING):
        positions -= config.pad_token_id + 1
    path = checkpoint.path / "tokenizer_config.json"
    try:
        said = json.loads(path.read_text(encoding="utf-8")).get("model_max_length") if path.is_file() else None
    except (OSError, ValueError, AttributeError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error
    longest = min(positions, said or math.inf)
    return int(longest) if longest < 1e9 else 512


class PretrainedTokenizer:
    """A model's own tokenizer, as transformers reads it.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where its files lie.
    max_tokens : int
        Where longer texts are cut.
    full : bool
        Whether texts are always padded to `max_tokens`, or to the longest of them.
    lower_case : bool
        Whether texts are made lower-case first.

    Raises
    ------
    ModelError
        If its files are missing or damaged.
    """

    def __init__(self, checkpoint: Checkpoint, *, max_tokens: int, full: bool, lower_case: bool = False) -> None:
        transformers = import_transformers()
        try:
            self._tokenizer = transformers.AutoTokenizer.from_pretrained(checkpoint.path, **_HERE)
        except Exception as error:  # of tokenizers, sentencepiece and transformers
            raise ModelError(f"the tokenizer of {checkpoint.reference} cannot be loaded: {error}") from error
        self._max_tokens = max_tokens
        self._padding = "max_length" if full else "longest"
        self._reading = threading.Lock()  # tokenizers refuse to be set while they are read
        if lower_case:
            self._lower_case()

    def __call__(self, texts: Sequence[str]) -> dict[str, Tokens]:
        """Make the arrays int64 ``(n, t)`` that transformers makes; what is too long is cut, with a warning."""
        with self._reading:
            found = self._tokenizer(
                list(texts),
                padding=self._padding,
                truncation=True,
                max_length=self._max_tokens,
                return_tensors="np",
                verbose=False,
            )
        for text, encoding in zip(texts, found.encodings or (), strict=False):
            if encoding.overflowing:
                logger.warning(
                    "only the first %d tokens are read of a text of %d characters: %.40s…",
                    self._max_tokens,
                    len(text),
                    text,
                )
        return {name: np.asarray(array, dtype=np.int64) for name, array in found.items()}

    def write(self, folder: Path) -> None:
        """Write ``tokenizer.json`` as it is used here.

        Raises
        ------
        ModelError
            If it is none of the tokenizers that can be written so.
        """
        if not self._tokenizer.is_fast or self._tokenizer.padding_side != "right":
            raise ModelError(
                f"{type(self._tokenizer).__name__} cannot be written as tokenizer.json, or pads on the left; "
                "the model runs through torch only"
            )
        self(["words"])  # which settles how it pads and cuts
        self._tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))

    def _lower_case(self) -> None:
        from tokenizers import normalizers

        backend = self._tokenizer.backend_tokenizer
        rest = [backend.normalizer] if backend.normalizer else []
        backend.normalizer = normalizers.Sequence([normalizers.Lowercase(), *rest])


def read_preprocessing(checkpoint: Checkpoint) -> Preprocessing | Transform:
    """Read how pictures are prepared, from whichever file and in whichever version of it a hub has.

    The reference is the image processor that computes with PIL, as the published models were trained. The one that
    computes with torchvision, which transformers prefers where it is installed, antialiases in another way: on
    photographs its pixels are up to .07 of the values' range apart from these, .002 on average.

    Raises
    ------
    ModelError
        If there is no such file, it is damaged, or pictures would have different sizes.
    """
    processor = load_processor(checkpoint)
    return _said(processor) or _done(processor, checkpoint)


def load_processor(checkpoint: Checkpoint) -> Any:
    """Load the image processor that computes with PIL."""
    transformers = import_transformers()
    try:
        return transformers.AutoImageProcessor.from_pretrained(checkpoint.path, backend="pil", **_HERE)
    except Exception as error:  # of transformers, as it reads many kinds of files
        raise ModelError(
            f"{checkpoint.reference} does not say how pictures are prepared (preprocessor_config.json): {error}"
        ) from error


def _said(processor: Any) -> Preprocessing | None:
    """Say what an image processor does, if it does nothing else than `Preprocessing` can."""
    from transformers.image_processing_backends import PilBackend

    usual = all(getattr(type(processor), step) is getattr(PilBackend, step) for step in _STEPS)
    asked = processor.do_resize and processor.do_rescale and processor.do_normalize and not processor.do_pad
    if not (usual and asked and math.isclose(processor.rescale_factor, 1 / 255, rel_tol=1e-6)):
        return None
    size, crop = dict(processor.size), dict(processor.crop_size or {}) if processor.do_center_crop else {}
    shortest = size.get("shortest_edge") if set(size) == {"shortest_edge"} else None
    final = size if shortest is None else crop
    if set(final) != {"height", "width"} or crop not in ({}, final) or max(final.values()) > (shortest or math.inf):
        return None
    return Preprocessing(
        height=final["height"],
        width=final["width"],
        resample=int(processor.resample),
        mean=tuple(float(value) for value in processor.image_mean),
        std=tuple(float(value) for value in processor.image_std),
        shortest_edge=shortest,
    )


def _done(processor: Any, checkpoint: Checkpoint) -> Transform:
    """Let the image processor itself prepare pictures."""
    from PIL import Image

    def prepared(image: Image.Image) -> Any:
        return processor(image, return_tensors="np")["pixel_values"][0]

    shapes = {prepared(Image.new("RGB", size)).shape for size in ((64, 48), (48, 64), (640, 48))}
    if len(shapes) > 1:
        raise ModelError(
            f"{checkpoint.reference} gives each picture a size of its own ({type(processor).__name__}), which cannot "
            "be done yet; a model with a fixed size is needed: mmrag models"
        )
    ((_, height, width),) = shapes
    return Transform(prepared, height, width, type(processor).__name__)
