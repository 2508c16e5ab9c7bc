"""Model folders that ONNX Runtime runs: the built-in model, and what `mmrag train` writes.

A folder holds ``card.toml``, ``tokenizer.json``, ``preprocessor_config.json`` and, under ``onnx/``,
``vision_model.onnx`` (pixel_values → image_embeds) and ``text_model.onnx`` (input_ids,
attention_mask → text_embeds), each with its weights beside it in ``.safetensors``.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from mmrag.errors import ModelError
from mmrag.machine import usable_cores
from mmrag.models.cards import Card, hash_files, read_card
from mmrag.models.preprocess import Preprocessing
from mmrag.models.tokens import padded, read_tokenizer
from mmrag.roles import Encoder, Identity, Pixels, Vectors

if TYPE_CHECKING:
    from onnxruntime import InferenceSession
    from PIL.Image import Image
    from tokenizers import Tokenizer

logger = logging.getLogger("mmrag")


class OnnxEncoder(Encoder):
    """An image tower and a text tower in ONNX, each loaded when it is first needed.

    Parameters
    ----------
    folder : path
        A model folder.

    Raises
    ------
    ModelError
        If a file is missing or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.card: Card = read_card(folder)
        self._preprocess = Preprocessing.read(folder / "preprocessor_config.json")
        self.identity = Identity(
            name=self.card.name,
            revision=self.card.revision,
            weights=self.card.weights,
            preprocessing=str(self._preprocess),
            dimension=self.card.dimension,
        )
        self.decode_at_least = max(self._preprocess.height, self._preprocess.width)

    def verify(self) -> None:
        """Check that the files are the ones that the card describes.

        Raises
        ------
        ModelError
            If they are not.
        """
        found = hash_files(self.folder)
        if found != self.card.weights:
            raise ModelError(
                f"the files of {self.folder} have changed since its card was written ({found}, not "
                f"{self.card.weights or 'a recorded hash'}); train, export or install the model again"
            )

    def preprocess(self, image: Image) -> Pixels:
        """Turn an upright RGB picture into the network's input, float32 ``(3, height, width)``."""
        return self._preprocess(image)

    def _embed_pixels(self, pixels: Pixels) -> Vectors:
        output = self._vision.run(["image_embeds"], {"pixel_values": pixels})[0]
        return np.asarray(output, dtype=np.float32)

    def _embed_text(self, texts: Sequence[str]) -> Vectors:
        encodings = self._tokenizer.encode_batch(list(texts))
        for text, encoding in zip(texts, encodings, strict=True):
            if encoding.overflowing:
                logger.warning(
                    "only the first %d tokens are read of a text of %d characters: %.40s…",
                    self.card.max_tokens,
                    len(text),
                    text,
                )
        ids, mask = padded(encodings)
        output = self._text.run(["text_embeds"], {"input_ids": ids, "attention_mask": mask})[0]
        return np.asarray(output, dtype=np.float32)

    @cached_property
    def _vision(self) -> InferenceSession:
        return _session(self.folder / "onnx" / "vision_model.onnx", spinning=True)

    @cached_property
    def _text(self) -> InferenceSession:
        return _session(self.folder / "onnx" / "text_model.onnx", spinning=False)

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return read_tokenizer(self.folder, self.card.max_tokens)


def _session(path: Path, *, spinning: bool) -> InferenceSession:
    import onnxruntime

    if not path.is_file():
        raise ModelError(f"the model's file {path} is missing; train, export or install the model again")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = usable_cores()
    # Threads that wait spinning double a long forward pass, and take the cores from the scan after a short one.
    options.add_session_config_entry("session.intra_op.allow_spinning", str(int(spinning)))
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no narrower base
        raise ModelError(f"{path} cannot be loaded: {error}") from error


def open_folder(reference: str) -> OnnxEncoder:
    """Open a model folder by its path."""
    return OnnxEncoder(Path(reference).expanduser().resolve())


def open_builtin(reference: str) -> OnnxEncoder:
    """Open the model that ships with mmrag."""
    if reference:
        raise ModelError(f"the built-in model has no variants; write 'builtin', not 'builtin:{reference}'")
    return OnnxEncoder(Path(__file__).parent / "builtin")
