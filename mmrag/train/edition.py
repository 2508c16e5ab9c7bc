"""All parts of the built-in model as they pass from one training to the next, and into the folder that ships."""

from __future__ import annotations

import dataclasses
import json
import logging
from pathlib import Path
from typing import TYPE_CHECKING

from mmrag.errors import MissingExtraError, ModelError
from mmrag.models.cards import CARD_NAME, Card, Role, Source, read_card
from mmrag.models.export import write_card
from mmrag.models.miniature_files import SETTINGS_NAME, TOKENIZER_NAME, Judging, MiniatureSettings, Writing

if TYPE_CHECKING:
    from torch import Tensor, nn

    from mmrag.train.start import Start

WEIGHTS_NAME = "weights.safetensors"
CHINESE_TOKENIZER_NAME = "tokenizer_zh.json"
_NETWORK, _CHINESE, _MINIATURE = "network.", "chinese.", "miniature."

logger = logging.getLogger("mmrag")


def write_edition(start: Start, folder: Path, *, card: Card) -> Card:
    """Write all parts that there are: weights to go on with, and the graphs that ONNX Runtime runs.

    Where onnxscript is not installed, as on a machine that only trains, the graphs are left out with a warning; writing
    what `mmrag.train.start.load_start` reads from the folder again elsewhere adds them.

    Parameters
    ----------
    start : Start
        The parts.
    folder : path
        Files of the same names are replaced.
    card : Card
        What is known of the model.

    Returns
    -------
    Card
        As it was written.
    """
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    for part in (start.network, start.chinese, start.miniature):
        if part is not None:
            part.cpu()  # where graphs are exported
    weights, sizes = _parts(start)
    aside = folder / f"{WEIGHTS_NAME}.partial"
    save_file(weights, aside, metadata=sizes)
    aside.replace(folder / WEIGHTS_NAME)
    (folder / "tokenizer.json").write_text(start.tokenizer_json, encoding="utf-8")
    start.preprocessing.write(folder / "preprocessor_config.json")
    if start.characters:
        (folder / CHINESE_TOKENIZER_NAME).write_text(start.characters.to_str(), encoding="utf-8")
    if start.words:
        (folder / TOKENIZER_NAME).write_text(start.words.to_str(), encoding="utf-8")
    try:
        return _export(start, folder, _of_these_parts(start, card))
    except MissingExtraError as error:
        logger.warning("%s holds weights only: %s", folder, error)
        card = _of_these_parts(start, card)
        write_card(card, folder)
        return card


def _parts(start: Start) -> tuple[dict[str, Tensor], dict[str, str]]:
    import torch

    named: list[tuple[str, nn.Module | None]] = [
        (_NETWORK, start.network),
        (_CHINESE, start.chinese),
        (_MINIATURE, start.miniature),
    ]
    weights = {
        prefix + name: tensor.detach().cpu().to(torch.float16).contiguous()
        for prefix, module in named
        if module is not None
        for name, tensor in module.state_dict().items()
    }
    configs = {"chinese": start.chinese, "miniature": start.miniature}
    sizes = {name: json.dumps(dataclasses.asdict(part.config)) for name, part in configs.items() if part is not None}
    return weights, sizes


def _of_these_parts(start: Start, card: Card) -> Card:
    """Say what the parts that there are can do; figures of other weights say nothing of these."""
    roles: tuple[Role, ...] = ("encoder",) if start.miniature is None else ("encoder", "matcher", "generator")
    languages = tuple(code for code in card.languages if code != "zh") + (("zh",) if start.chinese else ())
    return dataclasses.replace(card, roles=roles, languages=languages, weights="", revision="", figures={})


def _export(start: Start, folder: Path, card: Card) -> Card:
    from mmrag.models.export import export_folder
    from mmrag.models.miniature_export import export_miniature

    if start.miniature is not None and start.words is not None:
        settings = MiniatureSettings(start.miniature.config, *_judging(folder))
        export_miniature(start.miniature, folder, tokenizer=start.words.to_str(), settings=settings)
    return export_folder(
        start.network,
        folder,
        card=card,
        tokenizer=start.tokenizer_json,
        preprocessing=start.preprocessing,
        miniature=start.miniature,
        chinese=start.chinese,
        chinese_tokenizer=start.characters.to_str() if start.characters else "",
    )


def _judging(folder: Path) -> tuple[Judging, Writing]:
    """Keep how an older edition in the folder judges and writes; what its calibration found is worth no less now."""
    from mmrag import recipe

    if not (folder / SETTINGS_NAME).is_file():
        return Judging(), Writing()
    old = recipe.load(folder / SETTINGS_NAME, MiniatureSettings)
    return old.judging, old.writing


def read_edition(folder: Path, start: Start) -> None:
    """Take the parts that `write_edition` wrote into a start.

    Raises
    ------
    ModelError
        If a file is missing or damaged.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(folder / WEIGHTS_NAME, "pt") as file:
            sizes = file.metadata() or {}
            weights = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
        start.network.load_state_dict(_of(weights, _NETWORK))
        _read_chinese(folder, start, sizes, weights)
        _read_miniature(folder, start, sizes, weights)
    except (OSError, SafetensorError, RuntimeError, TypeError, ValueError) as error:
        raise ModelError(f"{folder / WEIGHTS_NAME} cannot be trained further: {error}") from error


def _read_chinese(folder: Path, start: Start, sizes: dict[str, str], weights: dict[str, Tensor]) -> None:
    from tokenizers import Tokenizer

    from mmrag.models.characters import CharacterConfig, CharacterTower

    if "chinese" in sizes:
        start.chinese = CharacterTower(CharacterConfig(**json.loads(sizes["chinese"])))
        start.chinese.load_state_dict(_of(weights, _CHINESE))
        start.characters = Tokenizer.from_str((folder / CHINESE_TOKENIZER_NAME).read_text(encoding="utf-8"))


def _read_miniature(folder: Path, start: Start, sizes: dict[str, str], weights: dict[str, Tensor]) -> None:
    from tokenizers import Tokenizer

    from mmrag.models.miniature import Miniature, MiniatureConfig

    if "miniature" in sizes:
        start.miniature = Miniature(MiniatureConfig(**json.loads(sizes["miniature"])))
        start.miniature.load_state_dict(_of(weights, _MINIATURE))
        start.words = Tokenizer.from_str((folder / TOKENIZER_NAME).read_text(encoding="utf-8"))


def _of(weights: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in weights.items() if name.startswith(prefix)}


def card_of(folder: Path, start: Start) -> Card:
    """Give the card that lies in a folder, or a new one that says what the model began as."""
    if (folder / CARD_NAME).is_file():
        return read_card(folder)
    if start.folder is None:
        source = Source("two packages with pretrained towers", "Apache-2.0", use="the start of both towers")
    else:
        source = Source(read_card(start.folder).name, "see its own card", use="the start")
    return Card(
        name=folder.resolve().name,
        family="onnx",
        revision="",
        dimension=start.network.text.config.dimension,
        max_tokens=start.max_tokens,
        languages=start.languages,
        sources=(source,),
    )
