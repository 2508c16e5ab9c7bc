"""What every BLIP-2 has: its usual sizes, its precisions."""

from __future__ import annotations

from types import MappingProxyType
from typing import Self

from mmrag.errors import ModelError
from mmrag.models.blip_base import BlipBase


class Blip2Network(BlipBase):
    """A BLIP-2 or InstructBLIP of transformers'."""

    family = "blip2"
    usual = MappingProxyType(
        {
            "vision_config": {"hidden_size": 1408, "image_size": 224, "patch_size": 14},
            "qformer_config": {"max_position_embeddings": 512},
            "text_config": {"model_type": "opt"},
        }
    )
    reader = "qformer_config"
    queries = 32
    elsewhere = MappingProxyType(
        {
            "encoder": "blip2:Salesforce/blip2-itm-vit-g",
            "matcher": "blip2:Salesforce/blip2-itm-vit-g",
            "generator": "blip2:Salesforce/blip2-opt-2.7b",
        }
    )

    def at_precision(self, precision: str) -> Self:
        """Give this model computing in "fp32" or "bf16"."""
        if precision == "fp16":  # transformers keeps both of them out of it
            raise ModelError(f"{self.card.name}: the Q-Former and Flan-T5 overflow in fp16; take bf16 or fp32")
        return super().at_precision(precision)
