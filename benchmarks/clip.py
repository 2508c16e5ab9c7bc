"""OpenCLIP's ViT-B-32-256 with random weights, exported once: speed does not depend on the values of weights."""

from __future__ import annotations

from pathlib import Path

ARCHITECTURE = "ViT-B-32-256"
FOLDER = Path(__file__).resolve().parents[1] / ".bench" / ARCHITECTURE


def exported() -> Path:
    """Give the model folder, in single precision and in 8 bits; it is written the first time."""
    if not (FOLDER / "card.toml").is_file():
        from mmrag.models.onnx_export import export_encoder
        from mmrag.models.registry import load_encoder

        export_encoder(load_encoder(f"openclip:{ARCHITECTURE}/random", device="cpu"), FOLDER)
    return FOLDER
