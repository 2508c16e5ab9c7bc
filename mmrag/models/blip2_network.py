"""What every BLIP-2 has: its files, its card, its precisions."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any, ClassVar, Self

from mmrag.errors import ModelError
from mmrag.models.cards import Card, Role, revision_of
from mmrag.models.checkpoint import Checkpoint
from mmrag.models.network import TorchModel, import_transformers
from mmrag.models.preprocess import Preprocessing, Transform
from mmrag.models.pretrained import load_pretrained
from mmrag.roles import Identity

_USUAL: dict[str, dict[str, Any]] = {
    "vision_config": {"hidden_size": 1408, "image_size": 224, "patch_size": 14},
    "qformer_config": {"max_position_embeddings": 512},
    "text_config": {"model_type": "opt"},
}


class Blip2Network(TorchModel):
    """A BLIP-2 or InstructBLIP of transformers'.

    Attributes
    ----------
    architecture : str
        transformers' class.
    roles : tuple of str
        That such checkpoints play.
    summary : str
        For the card.

    Parameters
    ----------
    checkpoint : Checkpoint
        Its files.

    Raises
    ------
    ModelError
        If a file is missing, damaged or does not fit the others.
    """

    architecture: ClassVar[str]
    roles: ClassVar[tuple[Role, ...]]
    preprocessing: Preprocessing | Transform
    summary: ClassVar[str]

    elsewhere = MappingProxyType(
        {
            "encoder": "blip2:Salesforce/blip2-itm-vit-g",
            "matcher": "blip2:Salesforce/blip2-itm-vit-g",
            "generator": "blip2:Salesforce/blip2-opt-2.7b",
        }
    )

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self.preprocessing = Preprocessing.read(checkpoint.path / "preprocessor_config.json")
        prepared, side = (
            (self.preprocessing.height, self.preprocessing.width),
            self.section("vision_config")["image_size"],
        )
        if prepared != (side, side):
            raise ModelError(
                f"{checkpoint.path} prepares pictures of {prepared} pixels for a network of {side}; fetch it again"
            )
        encodes = "encoder" in self.roles
        weights = checkpoint.fingerprint()
        self.card = Card(
            name=checkpoint.name,
            family="blip2",
            revision=revision_of(weights),
            roles=self.roles,
            dimension=checkpoint.config.get("image_text_hidden_size", 256) if encodes else 0,
            vectors=checkpoint.config.get("num_query_tokens", 32) if encodes else 1,
            max_tokens=self.section("qformer_config")["max_position_embeddings"],
            languages=("en",),
            summary=self.summary,
            weights=weights,
            licence_weights=checkpoint.licence,
            sources=(checkpoint.source,),
        )
        self.identity = Identity(
            name=self.card.name,
            revision=self.card.revision,
            weights=weights,
            preprocessing=str(self.preprocessing),
            dimension=self.card.dimension,
            vectors=self.card.vectors,
        )

    def load_network(self) -> Any:
        """Read the weights from disk, into the precision that they are needed in."""
        return load_pretrained(self.checkpoint, getattr(import_transformers(), self.architecture), dtype=self.dtype)

    def at_precision(self, precision: str) -> Self:
        """Give this model computing in "fp32" or "bf16"."""
        if precision == "fp16":  # transformers keeps both of them out of it
            raise ModelError(f"{self.card.name}: the Q-Former and Flan-T5 overflow in fp16; take bf16 or fp32")
        return super().at_precision(precision)

    def section(self, name: str) -> dict[str, Any]:
        """Read a part of config.json, where what is not said is as in transformers."""
        section = self.checkpoint.config.get(name) or {}
        if not isinstance(section, dict):
            raise ModelError(f"{self.checkpoint.path / 'config.json'}: {name} is not a table")
        return {**_USUAL[name], **section}
