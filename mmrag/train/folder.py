"""Files of pairs → a model folder: training, its card, and the export."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from mmrag.models.cards import CARD_NAME, Card, Source, read_card
from mmrag.models.export import export_folder
from mmrag.sources.pairs import read_pairs
from mmrag.train.builtin_loop import WEIGHTS_NAME, TrainReport, train
from mmrag.train.builtin_recipe import TrainRecipe
from mmrag.train.start import Start, load_start


def train_folder(
    paths: Sequence[str | Path],
    *,
    out: Path,
    val: Iterable[str | Path] = (),
    start: str = "builtin",
    recipe: TrainRecipe | None = None,
    text_key: str | None = None,
    device: str = "cpu",
    progress: Callable[[int, int], None] | None = None,
) -> tuple[Card, TrainReport]:
    """Train a model and write the folder that `mmrag index --model` takes.

    Parameters
    ----------
    paths : sequence of path
        Files of pairs, as `mmrag.sources.pairs.read_pairs` reads them.
    out : path
        The model folder. What a card that lies there says in words is kept; figures and hashes are new.
    val : iterable of path
        Files of pairs that decide which epoch is kept; without any, the last one is.
    start : str
        "builtin", "packages" (pretrained towers, nothing of ours), or a model folder.
    recipe : TrainRecipe or None
        None is ``TrainRecipe()``.
    text_key, device, progress
        As in `read_pairs` and `mmrag.train.train`.

    Returns
    -------
    Card
        Of the model that was written.
    TrainReport
        What came of the training.
    """
    recipe = recipe or TrainRecipe()
    began = load_start(start)
    val_paths = list(val)
    report = train(
        read_pairs(paths, text_key=text_key),
        val=read_pairs(val_paths, text_key=text_key) if val_paths else None,
        out=out,
        start=began,
        recipe=recipe,
        device=device,
        progress=progress,
    )
    card = export_folder(
        report.network,
        out,
        card=_card(out, paths, start, began, recipe, report),
        tokenizer=began.tokenizer_json,
        preprocessing=began.preprocessing,
    )
    (out / WEIGHTS_NAME).unlink(missing_ok=True)  # the folder has them now
    return card, report


def _card(
    out: Path, paths: Sequence[str | Path], start: str, began: Start, recipe: TrainRecipe, report: TrainReport
) -> Card:
    files = ", ".join(Path(path).name for path in paths)
    figures = {f"validation {name}": str(value) for name, value in _flat(report.figures).items()}
    training = f"From {start}, epoch {report.epoch} of {recipe.epochs}, {report.seconds:.0f} s: {recipe}"
    scale = round(report.logit_scale, 2)
    fresh: dict[str, Any] = {
        "training": training,
        "figures": figures,
        "logit_scale": scale,
        "weights": "",
        "revision": "",
    }
    if (out / CARD_NAME).is_file():
        return dataclasses.replace(read_card(out), **fresh)
    return Card(
        name=out.resolve().name,
        family="onnx",
        dimension=report.network.text.config.dimension,
        max_tokens=began.max_tokens,
        languages=began.languages,
        summary=f"Trained on {files}.",
        sources=(Source(start, "see its own card", use="the start of both towers"),),
        data=files,
        **fresh,
    )


def _flat(figures: dict[str, Any]) -> dict[str, Any]:
    return {
        f"{direction} {name}": value
        for direction, values in figures.items()
        if isinstance(values, dict)
        for name, value in values.items()
    }
