"""Models as ONNX files: the built-in one, what `mmrag train` and `mmrag models export` write, and a hub's."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from mmrag.errors import ModelError
from mmrag.models import cache
from mmrag.models.engines import CELLS, OnnxRuntimeSession, Session
from mmrag.models.folder import CHINESE, ModelFolder, TowerName
from mmrag.models.miniature_files import SETTINGS_NAME
from mmrag.models.preprocess import Preprocessing
from mmrag.models.samples import CHINESE_SAMPLE_TEXTS, SAMPLE_TEXTS, sample_pictures
from mmrag.models.tokens import count, encode, has_han, laid_out, pad_id, read_tokenizer
from mmrag.models.tower import Samples, Tower
from mmrag.roles import DEVICES, Encoder, Heat, Identity, Pixels, Vectors

if TYPE_CHECKING:
    from PIL.Image import Image
    from tokenizers import Encoding, Tokenizer

logger = logging.getLogger("mmrag")


_SAMPLES: dict[TowerName, list[str]] = {"text": SAMPLE_TEXTS, CHINESE: CHINESE_SAMPLE_TEXTS}
"""The towers that read texts, and what they are tried on."""


class OnnxEncoder(Encoder):
    """An image tower and a text tower in ONNX, or one of them, each loaded when it is first needed.

    Where the folder has a second text tower, it reads the texts that have a Chinese character.

    Parameters
    ----------
    folder : path
        A model folder, as `mmrag.models.folder` describes it.
    precision : {"fp32", "bf16", "int8"} or None
        What pictures are encoded in, or texts where the model sees no pictures. By default, each tower runs in the
        fastest way whose vectors are those of single precision.
    text_precision : {"fp32", "int8"} or None
        What texts are encoded in.

    Raises
    ------
    ModelError
        If a file is missing or damaged, or the precision cannot be had.
    """

    def __init__(self, folder: Path, *, precision: str | None = None, text_precision: str | None = None) -> None:
        self.folder = folder
        self._files = ModelFolder.read(folder)
        self.card = self._files.card
        towers, weights = self._files.towers, self.card.weights
        self._preprocess = Preprocessing.read(folder / "preprocessor_config.json") if "vision" in towers else None
        self.identity = Identity(
            name=self.card.name,
            revision=self.card.revision,
            weights=self.card.weights,
            preprocessing=str(self._preprocess or ""),
            dimension=self.card.dimension,
        )
        self.decode_at_least = self._preprocess.needed_side if self._preprocess else None
        self._towers: dict[TowerName, Tower] = {}
        if "vision" in towers:
            self._towers["vision"] = Tower(towers["vision"], weights, for_pictures=True, precision=precision)
        else:
            text_precision = precision
        for name in _SAMPLES:
            if name in towers:
                self._towers[name] = Tower(towers[name], weights, for_pictures=False, precision=text_precision)
        self._first = next(iter(self._towers.values()))

    @property
    def engine(self) -> str:
        """What encodes pictures, or texts where it sees none: "onnxruntime" or "openvino"."""
        return self._first.way.engine

    @property
    def precision(self) -> str:
        """What pictures are encoded in, or texts where it sees none: "fp32", "bf16" or "int8"."""
        return self._first.way.precision

    def at_precision(self, precision: str) -> Self:
        """Give this encoder, encoding pictures, or texts where it sees none, in "fp32", "bf16" or "int8"."""
        return type(self)(self.folder, precision=precision)

    def on_device(self, device: str) -> Self:
        """Give this encoder: a device is where torch computes, and ONNX models always compute on the CPU."""
        if device not in DEVICES:
            raise ModelError(f"a device is one of {', '.join(DEVICES)}, not {device!r}")
        if device not in ("auto", "cpu"):
            logger.info("%s is an ONNX model and computes on the CPU, not on %s", self.card.name, device)
        return self

    def verify(self) -> None:
        """Check that the files are the ones that the card describes, and find the fastest faithful way to run them.

        Raises
        ------
        ModelError
            If they are not, or if the precision asked for gives other vectors.
        """
        found = self._files.fingerprint()
        if found != self.card.weights:
            raise ModelError(
                f"the files of {self.folder} have changed since its card was written ({found}, not "
                f"{self.card.weights or 'a recorded hash'}); train, export or install the model again"
            )
        if "vision" in self._towers:
            self._towers["vision"].settle(lambda session: pixel_input(session, self._sample_pixels()))
        for name, texts in _SAMPLES.items():
            if name in self._towers:
                self._towers[name].settle(partial(self._token_input, name, self._encode(name, texts)))

    def prepare(self, *, words: bool) -> None:
        """Begin to load the text tower, or else the image tower, in a thread."""
        tower = self._towers.get("text" if words else "vision")
        if tower:
            tower.prepare()

    def preprocess(self, image: Image) -> Pixels:
        """Turn an upright RGB picture into the network's input, float32 ``(3, height, width)``."""
        return self._preprocess(image) if self._preprocess else super().preprocess(image)

    def explain(self, image: Image, query_vector: Vectors) -> Heat:
        """Tell which cells of a picture are similar to what is asked, where the image tower gives its cells.

        Such a tower has an output "cell_embeds", float32 ``(n, rows, columns, dimension)``: each cell as if the whole
        picture looked like it.
        """
        if self._preprocess is None or not self._preprocess.sees_all or self._cells_session is None:
            return super().explain(image, query_vector)
        session = self._cells_session
        (cells,) = session.outputs(pixel_input(session, self._preprocess(image)[None]), [CELLS])[0]
        cells /= np.maximum(np.linalg.norm(cells, axis=-1, keepdims=True), 1e-12)
        return np.asarray(cells @ query_vector, dtype=np.float32)

    @cached_property
    def _cells_session(self) -> OnnxRuntimeSession | None:
        """The image tower; None if it does not give its cells."""
        session = OnnxRuntimeSession(self._files.towers["vision"]["fp32"], quick=False)
        return session if CELLS in session.names else None

    def _embed_pixels(self, pixels: Pixels) -> Vectors:
        session = self._towers["vision"].session
        return session.run(pixel_input(session, pixels))

    def _embed_text(self, texts: Sequence[str]) -> Vectors:
        if "text" not in self._towers:
            return super()._embed_text(texts)
        if CHINESE not in self._towers:
            return self._read("text", texts)
        chinese = np.array([has_han(text) for text in texts])
        vectors = np.empty((len(texts), self.card.dimension), dtype=np.float32)
        for name, mine in zip(_SAMPLES, (~chinese, chinese), strict=True):
            if mine.any():
                read = self._read(name, [text for text, is_mine in zip(texts, mine, strict=True) if is_mine])
                vectors[mine] = self._checked(read, (len(read), self.card.dimension))
        return vectors

    def _count_tokens(self, texts: Sequence[str]) -> list[int]:
        names: list[TowerName] = [CHINESE if CHINESE in self._towers and has_han(text) else "text" for text in texts]
        counts = {
            name: iter(
                self._count_by(name, [text for text, reader in zip(texts, names, strict=True) if reader == name])
            )
            for name in set(names)
        }
        return [next(counts[name]) for name in names]

    def _count_by(self, name: TowerName, texts: Sequence[str]) -> list[int]:
        """Count tokens; each counts for more where a tower reads fewer of them than the card says."""
        tokenizer = self._tokenizer_of(name)
        limit = tokenizer.truncation["max_length"] if tokenizer.truncation else self.card.max_tokens
        (special,), (own_special, *counts) = count(self._tokenizer, [""]), count(tokenizer, ["", *texts])
        room, own_room = self.card.max_tokens - special, limit - own_special
        return [special - (own_special - number) * room // own_room for number in counts]

    def _read(self, name: TowerName, texts: Sequence[str]) -> Vectors:
        encodings = self._encode(name, texts)
        session = self._towers[name].session
        return session.run(self._token_input(name, encodings, session))

    def _encode(self, name: TowerName, texts: Sequence[str]) -> list[Encoding]:
        return encode(self._tokenizer_of(name), texts)

    def _tokenizer_of(self, name: TowerName) -> Tokenizer:
        return self._chinese_tokenizer if name == CHINESE else self._tokenizer

    def _token_input(self, name: TowerName, encodings: Sequence[Encoding], session: Session) -> Samples:
        fixed = session.lengths.get("input_ids")
        full = self.card.max_tokens if self.card.text_padding == "full" else None
        arrays = laid_out(encodings, length=fixed or full, pad_id=pad_id(self._tokenizer_of(name)))
        unknown = session.inputs.keys() - arrays.keys()
        if unknown:
            raise ModelError(f"the text tower of {self.card.name} also wants {', '.join(sorted(unknown))}")
        return {name: arrays[name].astype(dtype) for name, dtype in session.inputs.items()}

    def _sample_pixels(self) -> Pixels:
        return np.stack([self.preprocess(picture) for picture in sample_pictures()])

    @cached_property
    def _tokenizer(self) -> Tokenizer:
        return read_tokenizer(self.folder, self.card.max_tokens)

    @cached_property
    def _chinese_tokenizer(self) -> Tokenizer:
        return read_tokenizer(self.folder, self.card.max_tokens, name="tokenizer_zh.json", own_limit=True)


def pixel_input(session: Session, pixels: Pixels) -> Samples:
    """Give pixels ``(n, 3, height, width)`` the name that an image tower calls its input."""
    if len(session.inputs) != 1:
        raise ModelError(f"an image tower takes one input, the pixels, not {', '.join(session.inputs)}")
    ((name, dtype),) = session.inputs.items()
    return {name: pixels.astype(dtype, copy=False)}


def open_folder(reference: str) -> OnnxEncoder:
    """Open a model folder by its path, or one that was fetched by its repository's name."""
    folder = Path(reference).expanduser()
    if not folder.is_dir() and cache.is_repository(reference.partition("@")[0]):
        folder = cache.locate(reference, family="onnx", kind="onnx")
    return _open(folder.resolve())


def open_builtin(reference: str) -> OnnxEncoder:
    """Open the model that ships with mmrag."""
    if reference:
        raise ModelError(f"the built-in model has no variants; write 'builtin', not 'builtin:{reference}'")
    return _open(Path(__file__).parent / "builtin")


def _open(folder: Path) -> OnnxEncoder:
    if (folder / SETTINGS_NAME).is_file():
        from mmrag.models.miniature_runtime import MiniatureRuntime

        return MiniatureRuntime(folder)
    return OnnxEncoder(folder)
