"""What transformers makes of a checkpoint: configuration, network, tokenizer, preprocessing. Nothing is downloaded."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrag.errors import ModelError
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.network import import_transformers
from mmrag.models.preprocess import Preprocessing, Transform
from mmrag.models.tokens import read_tokenizer, settle

if TYPE_CHECKING:
    import torch
    from PIL import Image
    from tokenizers import Tokenizer

HERE: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
"""For every call of ``from_pretrained``: no code of a model's author is run, and nothing is looked for on a hub."""

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
        return transformers.AutoConfig.from_pretrained(checkpoint.path, **HERE)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise ModelError(
            f"transformers {transformers.__version__} cannot read the configuration of {checkpoint.reference}: {error}"
        ) from error


def model_class(config: Any) -> Any:
    """Tell which class of transformers' computes a model; None if there is none."""
    mapping = import_transformers().models.auto.modeling_auto.MODEL_MAPPING
    return mapping.get(type(config), None)


def encoder_class(config: Any) -> Any:
    """Tell which class of transformers' computes the vectors of a text's tokens: of two halves, the encoder."""
    mapping = import_transformers().models.auto.modeling_auto.MODEL_FOR_TEXT_ENCODING_MAPPING
    return mapping.get(type(config), None) or model_class(config)


def load_pretrained(checkpoint: Checkpoint, kind: Any, *, dtype: Any = "float32", unused: str = "") -> torch.nn.Module:
    """Load a network, all of it, on the CPU.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where the weights lie: as safetensors, or as pickles of which nothing but weights is read.
    kind : class
        Of transformers'.
    dtype : str or torch.dtype
        What the weights become.
    unused : str
        What the names of parts begin with that may be missing.

    Raises
    ------
    ModelError
        If a file is missing or damaged, or lacks a part of the network.
    """
    try:
        network, report = kind.from_pretrained(
            checkpoint.path,
            dtype=dtype,
            use_safetensors=checkpoint.has_safetensors,
            weights_only=True,
            output_loading_info=True,
            **HERE,
        )
    except Exception as error:  # of transformers, safetensors, torch and pickle
        raise ModelError(
            f"the weights of {checkpoint.reference} cannot be loaded: {error}. {_again(checkpoint)}"
        ) from error
    needed = (key for key in report["missing_keys"] if not (unused and key.startswith(unused)))
    missing = sorted(needed) + [str(key) for key in report["mismatched_keys"]]
    if missing:
        raise ModelError(
            f"the weights of {checkpoint.reference} are not all there: {len(missing)} are missing or of another "
            f"shape, the first is {missing[0]}. {_again(checkpoint)}"
        )
    return network  # type: ignore[no-any-return]


def _again(checkpoint: Checkpoint) -> str:
    """Say how to get a model's files again."""
    if os.path.isdir(os.path.expanduser(checkpoint.reference)):
        return "Copy the model's files into the folder again, from where they came"
    return f"Fetch the model again: mmrag models pull hf:{checkpoint.reference}"


def read_logit_scale(files: Iterable[Path]) -> float:
    """Read what cosines are multiplied with before a softmax: exp of the tensor ``logit_scale``.

    Parameters
    ----------
    files : iterable of path
        The weights; of those that are no safetensors nothing is read.

    Returns
    -------
    float
        0 if no file says.
    """
    from safetensors import SafetensorError, safe_open

    for path in files:
        with suppress(SafetensorError):  # a damaged file is named when the network is loaded
            if path.suffix == ".safetensors":
                with safe_open(path, framework="pt") as tensors:
                    if "logit_scale" in tensors.keys():  # noqa: SIM118 - it is no mapping
                        return math.exp(tensors.get_tensor("logit_scale").item())
    return 0.0


def longest_text(checkpoint: Checkpoint, config: Mapping[str, Any]) -> int:
    """Tell how many tokens a text tower reads: as many as it has positions, or fewer if the tokenizer says so."""
    positions = config.get("max_position_embeddings") or math.inf
    if any(kind in config.get("model_type", "") for kind in _POSITIONS_BEHIND_PADDING):
        padding = config.get("pad_token_id")
        positions -= (1 if padding is None else padding) + 1
    said = tokenizer_settings(checkpoint).get("model_max_length")
    longest = min(positions, said or math.inf)
    return int(longest) if longest < 1e9 else 512


def load_tokenizer(checkpoint: Checkpoint, max_tokens: int, *, lower_case: bool = False) -> Tokenizer:
    """Load a tokenizer: ``tokenizer.json`` as it is, or what transformers makes of older files, such as vocab.txt.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where the files lie.
    max_tokens : int
        Where longer texts are cut.
    lower_case : bool
        Whether texts are made lower-case, even if tokenizer_config.json does not say so.

    Raises
    ------
    ModelError
        If its files are missing or damaged.
    """
    lower_case = lower_case or tokenizer_settings(checkpoint).get("do_lower_case") is True
    if (checkpoint.path / "tokenizer.json").is_file():
        return read_tokenizer(checkpoint.path, max_tokens, lower_case=lower_case)
    transformers = import_transformers()
    try:
        found = transformers.AutoTokenizer.from_pretrained(checkpoint.path, **HERE)
        tokenizer = found.backend_tokenizer
    except Exception as error:  # of tokenizers, sentencepiece and transformers
        raise ModelError(
            f"{checkpoint.reference} has no tokenizer.json, and transformers cannot make one: {error}"
        ) from error
    return settle(tokenizer, max_tokens, pad_id=found.pad_token_id or 0, lower_case=lower_case)


def tokenizer_settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read ``tokenizer_config.json``; empty if there is none.

    Raises
    ------
    ModelError
        If it is damaged.
    """
    path = checkpoint.path / "tokenizer_config.json"
    if not path.is_file():
        return {}
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"{path} is damaged: {error}") from error


def read_preprocessing(checkpoint: Checkpoint) -> Preprocessing | Transform:
    """Read how pictures are prepared, from whichever file and in whichever version of it a hub has.

    The reference is the image processor that computes with PIL, as the published models were trained. The one that
    computes with torchvision, which transformers prefers where it is installed, rounds in another way: on photographs,
    4 of 1,000 values are one step of 255 apart, seldom two; .00006 on average once normalised.

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
        return transformers.AutoImageProcessor.from_pretrained(checkpoint.path, backend="pil", **HERE)
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
    (shape,) = shapes
    if len(shape) != 3:
        raise ModelError(
            f"{checkpoint.reference} cuts pictures into patches itself ({type(processor).__name__}, as NaFlex does), "
            "which cannot be done yet; take the same model with a fixed size"
        )
    _, height, width = shape
    return Transform(prepared, height, width, type(processor).__name__)
