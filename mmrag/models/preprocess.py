"""Upright RGB picture → the array that an image tower takes, as a hub's preprocessor file says."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.errors import ModelError
from mmrag.roles import Pixels

if TYPE_CHECKING:
    from PIL import Image


@dataclass(frozen=True)
class Preprocessing:
    """Resize to `height` × `width` (squashing), scale to [0, 1], subtract `mean`, divide by `std`.

    Attributes
    ----------
    height, width : int
        In pixels.
    resample : int
        PIL's filter: 2 bilinear, 3 bicubic.
    mean, std : tuple of 3 float
        Per channel, on the scale [0, 1].
    """

    height: int
    width: int
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]

    @classmethod
    def read(cls, path: Path) -> Preprocessing:
        """Read ``preprocessor_config.json`` in the hub's layout.

        Raises
        ------
        ModelError
            If the file is missing or asks for something that this version does not do.
        """
        try:
            config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
            size = config["size"]
            if config.get("do_center_crop") or "shortest_edge" in size:
                raise ModelError(f"{path}: only squashing to a fixed height and width is supported")
            return cls(
                height=int(size["height"]),
                width=int(size["width"]),
                resample=int(config["resample"]),
                mean=tuple(float(value) for value in config["image_mean"]),
                std=tuple(float(value) for value in config["image_std"]),
            )
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path} is not a preprocessor file: {error!r}") from error

    def write(self, path: Path) -> None:
        """Write ``preprocessor_config.json`` in the hub's layout."""
        config = {
            "do_resize": True,
            "size": {"height": self.height, "width": self.width},
            "resample": self.resample,
            "do_center_crop": False,
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
        }
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    def __call__(self, image: Image.Image) -> Pixels:
        """Turn an upright RGB picture into float32 ``(3, height, width)``."""
        size = (self.width, self.height)
        if image.size != size:
            image = image.resize(size, self.resample, reducing_gap=2.0)
        scale = 1 / (255 * np.asarray(self.std, dtype=np.float32))
        shift = np.asarray(self.mean, dtype=np.float32) / np.asarray(self.std, dtype=np.float32)
        pixels = np.asarray(image, dtype=np.float32) * scale - shift
        return np.ascontiguousarray(pixels.transpose(2, 0, 1))  # (h, w, 3) → (3, h, w)

    def __str__(self) -> str:
        """Short form, recorded in a model's identity."""
        return f"squash {self.height}x{self.width} filter {self.resample} mean {self.mean} std {self.std}"
