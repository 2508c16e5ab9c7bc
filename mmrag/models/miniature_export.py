"""A Miniature → the files of a model folder with which ONNX Runtime judges and describes, without torch."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from mmrag.errors import ModelError
from mmrag.models.export import restore_names, store_in_half, toml_lines
from mmrag.models.graph import save, trace
from mmrag.models.miniature_files import (
    END,
    LOOK_NAME,
    PAD,
    SETTINGS_NAME,
    START,
    TOKENIZER_NAME,
    WORDS_NAME,
    MiniatureSettings,
)

if TYPE_CHECKING:
    import onnx_ir
    from torch import Tensor

    from mmrag.models.miniature import Miniature

WORDS_OUTPUTS = ("match_logits", "next_log_probabilities", "log_likelihoods")


def export_miniature(
    miniature: Miniature, out: Path, *, tokenizer: str, settings: MiniatureSettings | None = None
) -> None:
    """Write what belongs to a Miniature into a model folder.

    What it keeps of a picture is an output of the image tower: `mmrag.models.export.export_folder` takes the same
    Miniature for that.

    Parameters
    ----------
    miniature : Miniature
        In float32 on the CPU.
    out : path
        The folder; files of the same names are replaced.
    tokenizer : str
        Content of ``tokenizer_words.json``: "[PAD]" is token 0, and it puts texts between "[CLS]" and "[SEP]".
    settings : MiniatureSettings or None
        How it judges and writes.

    Raises
    ------
    ModelError
        If the tokenizer does not fit.
    MissingExtraError
        If onnxscript is not installed.
    """
    settings = settings or MiniatureSettings(miniature.config)
    _check(tokenizer, miniature)
    (out / "onnx").mkdir(parents=True, exist_ok=True)
    miniature = miniature.eval()
    for name, graph in ((LOOK_NAME, _trace_look(miniature)), (WORDS_NAME, _trace_words(miniature))):
        restore_names(graph, {"miniature": miniature})
        store_in_half(graph)
        save(graph, out / name)
    (out / TOKENIZER_NAME).write_text(tokenizer, encoding="utf-8")
    tables = dataclasses.asdict(settings).items()
    text = "\n".join(f"[{name}]\n{toml_lines(table)}" for name, table in tables)
    (out / SETTINGS_NAME).write_text(text, encoding="utf-8")


def _check(tokenizer: str, miniature: Miniature) -> None:
    from tokenizers import Tokenizer

    read = Tokenizer.from_str(tokenizer)
    start, end = read.token_to_id(START), read.token_to_id(END)
    ids = read.encode("").ids
    if read.token_to_id(PAD) != 0 or None in (start, end) or ids != [start, end]:
        raise ModelError(
            f"the tokenizer makes {ids} of an empty text; {PAD} must be token 0, "
            f"and a text stand between {START} and {END}"
        )
    if read.get_vocab_size() != miniature.config.vocabulary:
        raise ModelError(
            f"the tokenizer has {read.get_vocab_size()} tokens, and the network {miniature.config.vocabulary}"
        )


def _trace_look(miniature: Miniature) -> onnx_ir.Model:
    import torch

    class Look(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.miniature = miniature

        def forward(self, image_grid: Tensor) -> Tensor:
            return self.miniature.read(image_grid)

    config = miniature.config
    grid, pictures = torch.zeros(2, config.cells, config.width), torch.export.Dim("pictures")
    return trace(Look(), (grid,), names=["image_grid"], outputs=["memory"], shapes=({0: pictures},))


def _trace_words(miniature: Miniature) -> onnx_ir.Model:
    import torch

    class Words(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.miniature = miniature

        def forward(self, input_ids: Tensor, memory: Tensor) -> tuple[Tensor, ...]:
            pictures, texts, tokens = input_ids.shape
            hidden = self.miniature(input_ids.reshape(pictures * texts, tokens), memory)
            hidden = hidden.reshape(pictures, texts, tokens, -1)
            last = ((input_ids != 0).sum(-1) - 1).clamp(min=0)  # (pictures, texts)
            at_end = hidden.gather(2, last[..., None, None].expand(-1, -1, -1, hidden.shape[-1]))[:, :, 0]
            following = self.miniature.next_logits(at_end).log_softmax(-1)
            said = self.miniature.next_logits(hidden[:, :, :-1]).log_softmax(-1)
            likelihoods = said.gather(-1, input_ids[:, :, 1:, None])[..., 0] * (input_ids[:, :, 1:] != 0)
            return self.miniature.match_logits(at_end), following, likelihoods

    ids, memory = torch.ones(2, 3, 5, dtype=torch.long), miniature.read(_grid(miniature))
    pictures, texts, tokens = (torch.export.Dim(name) for name in ("pictures", "texts", "tokens"))
    return trace(
        Words(),
        (ids, memory),
        names=["input_ids", "memory"],
        outputs=WORDS_OUTPUTS,
        shapes=({0: pictures, 1: texts, 2: tokens}, {0: pictures}),
    )


def _grid(miniature: Miniature) -> Any:
    import torch

    return torch.zeros(2, miniature.config.cells, miniature.config.width)
