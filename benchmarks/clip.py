"""OpenCLIP's ViT-B-32-256 with random weights, exported once: speed does not depend on the values of weights."""

from __future__ import annotations

from pathlib import Path

ARCHITECTURE = "ViT-B-32-256"
FOLDER = Path(__file__).resolve().parents[1] / ".bench" / ARCHITECTURE


def exported() -> Path:
    """Give the model folder, in single precision and in 8 bits; it is written the first time."""
    if not (FOLDER / "card.toml").is_file():
        import torch

        from mmrag.models.open_clip import export_open_clip

        torch.manual_seed(0)
        export_open_clip(ARCHITECTURE, weights="random", out=FOLDER)
    return FOLDER
