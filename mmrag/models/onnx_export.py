"""Any encoder that torch computes → a model folder that ONNX Runtime runs without torch, and how far apart they are."""

from __future__ import annotations

import dataclasses
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.errors import MmragError, ModelError
from mmrag.models.cards import Card, read_card
from mmrag.models.export import complete_folder
from mmrag.models.folder import TOWERS, TowerName
from mmrag.models.graph import save, trace
from mmrag.models.network import import_torch
from mmrag.models.preprocess import Preprocessing
from mmrag.models.quantize import quantize_embeddings, quantize_rows
from mmrag.models.sentence import OnnxSentenceEncoder
from mmrag.models.torch_encoder import TorchEncoder
from mmrag.roles import Encoder, Vectors

if TYPE_CHECKING:
    from torch import Tensor, nn

_BESIDE = 1024  # bytes; shapes and other small constants must be in the graph itself
_TRACED_TOKENS = 9
OUTPUTS: dict[TowerName, str] = {"vision": "image_embeds", "text": "text_embeds"}


@dataclass(frozen=True)
class Agreement:
    """Cosines of exported vectors to the original's, in single precision, on samples.

    From picture to vector: what the faster preparation of pictures changes is in it.

    Attributes
    ----------
    lowest, mean : float
        From -1 to 1.
    samples : int
        How many pictures or texts.
    """

    lowest: float
    mean: float
    samples: int


@dataclass(frozen=True)
class Export:
    """What was written.

    Attributes
    ----------
    card : Card
        As it was written.
    agreement : mapping of precision to mapping of "image" or "text" to Agreement
        How far each tower is from the original.
    """

    card: Card
    agreement: Mapping[str, Mapping[str, Agreement]]


def export_encoder(encoder: Encoder, out: Path, *, precisions: Collection[str] = ("fp32", "int8")) -> Export:
    """Write a model folder.

    Parameters
    ----------
    encoder : Encoder
        One that torch computes.
    out : path
        The folder: new, empty, or that of an earlier export of the same model, which is replaced once all is written.
    precisions : collection of {"fp32", "int8"}
        What to write. "fp32" is always written: it says what the vectors are.

    Raises
    ------
    MissingExtraError
        If onnxscript is not installed.
    ModelError
        If torch does not compute the encoder, it cannot be written so, or the folder holds something else.
    """
    if isinstance(encoder, OnnxSentenceEncoder):
        encoder = encoder.through_torch
    if not isinstance(encoder, TorchEncoder):
        raise ModelError(f"{encoder.card.name} is not computed by torch, so there is nothing to export")
    if encoder.card.vectors > 1:
        raise ModelError(f"{encoder.card.name} gives a picture several vectors; such models cannot be exported yet")
    _check_place(out, encoder.card)
    as_it_is = (encoder.device, encoder.precision) == ("cpu", "fp32")
    original = encoder if as_it_is else encoder.on_device("cpu").at_precision("fp32")
    out.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(prefix=f".{out.name}-", dir=out.parent) as beside:
        folder = Path(beside)
        card = _write(original, folder, precisions)
        found = _compare(original, folder, precisions)
        shutil.rmtree(out / "onnx", ignore_errors=True)  # towers in 8 bits may be there, and not be written again
        shutil.copytree(folder, out, dirs_exist_ok=True)
    return Export(card, found)


def _check_place(out: Path, card: Card) -> None:
    """Refuse a folder that holds anything else than an earlier export of the same model."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    with suppress(MmragError):
        found = read_card(out)
        if (found.family, found.name) == ("onnx", card.name):
            return
    raise ModelError(
        f"{out} is not empty, and holds no earlier export of {card.name}; give a new folder, so that no two models mix"
    )


def _write(encoder: TorchEncoder, folder: Path, precisions: Collection[str]) -> Card:
    onnx = folder / "onnx"
    onnx.mkdir()
    modalities = encoder.card.modalities
    preprocessing = encoder.preprocessing if "image" in modalities else None
    if not isinstance(preprocessing, Preprocessing | None):
        raise ModelError(
            f"{encoder.card.name} prepares pictures in a way that only its own library can: {preprocessing}. It runs "
            "through torch, and cannot be exported"
        )
    if "text" in modalities:
        encoder.write_tokenizer(folder)
    for tower in (TOWERS[one] for one in modalities):
        graph = _traced(encoder, tower)
        save(graph, onnx / f"{tower}_model.onnx", smallest=_BESIDE)
        if "int8" in precisions:
            quantize_rows(graph)
            quantize_embeddings(graph)
            save(graph, onnx / f"{tower}_model_int8.onnx", smallest=_BESIDE)
    card = dataclasses.replace(encoder.card, family="onnx", roles=("encoder",), revision="", weights="")
    return complete_folder(folder, card=card, preprocessing=preprocessing)


def _traced(encoder: TorchEncoder, tower: TowerName) -> Any:
    try:
        with encoder.running() as network:
            return _trace_vision(encoder, network) if tower == "vision" else _trace_text(encoder, network)
    except MmragError:
        raise
    except Exception as error:  # the exporter's exceptions share no narrower base
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(f"torch cannot export the {tower} tower of {encoder.card.name}: {reason}") from error


def _trace_vision(encoder: TorchEncoder, network: nn.Module) -> Any:
    torch = import_torch()

    class Vision(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, pixel_values: Tensor) -> Tensor:
            return encoder.image_vectors(self.network, pixel_values)

    size = encoder.preprocessing
    pixels = torch.zeros(2, 3, size.height, size.width)
    shapes = ({0: torch.export.Dim("batch")},)
    return trace(Vision(), (pixels,), names=["pixel_values"], outputs=[OUTPUTS["vision"]], shapes=shapes)


def _trace_text(encoder: TorchEncoder, network: nn.Module) -> Any:
    """Trace for texts of any length if the card pads to the longest, and else for the only length there is."""
    torch = import_torch()
    names = list(encoder.tokenize(["a dog"]))

    class Text(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.network = network

        def forward(self, *tokens: Tensor) -> Tensor:
            return encoder.text_vectors(self.network, dict(zip(names, tokens, strict=True)))

    batch, card = torch.export.Dim("batch"), encoder.card
    any_length = card.text_padding == "longest"
    axes = {0: batch, 1: torch.export.Dim("tokens", max=card.max_tokens)} if any_length else {0: batch}
    length = _TRACED_TOKENS if any_length else card.max_tokens
    tokens = tuple(torch.ones(2, length, dtype=torch.long) for _ in names)
    shapes = (tuple(axes for _ in names),)
    return trace(Text(), tokens, names=names, outputs=[OUTPUTS["text"]], shapes=shapes)


def _compare(original: TorchEncoder, folder: Path, precisions: Collection[str]) -> dict[str, dict[str, Agreement]]:
    from mmrag.models.onnx import OnnxEncoder

    expected = _sample_vectors(original)
    found = {}
    for precision in ("fp32", *(one for one in precisions if one != "fp32")):
        exported = _sample_vectors(OnnxEncoder(folder, precision=precision, text_precision=precision))
        found[precision] = {name: _agreement(vectors, expected[name]) for name, vectors in exported.items()}
    return found


def _sample_vectors(encoder: Encoder) -> dict[str, Vectors]:
    from mmrag.models.samples import SAMPLE_TEXTS, sample_pictures

    vectors = {}
    if "image" in encoder.card.modalities:
        vectors["image"] = encoder.encode_image(sample_pictures())
    if "text" in encoder.card.modalities:
        vectors["text"] = encoder.encode_text(SAMPLE_TEXTS)
    return vectors


def _agreement(found: Vectors, expected: Vectors) -> Agreement:
    cosines = np.einsum("nd,nd->n", found, expected)
    return Agreement(float(cosines.min()), float(cosines.mean()), len(cosines))
