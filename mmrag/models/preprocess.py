"""Upright RGB picture → the array that an image tower takes, as a hub's preprocessor file says."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from mmrag.errors import ModelError
from mmrag.roles import Pixels

if TYPE_CHECKING:
    from PIL import Image

Box = tuple[float, float, float, float]


@dataclass(frozen=True)
class Preprocessing:
    """Resize to `height` × `width`, scale to [0, 1], subtract `mean`, divide by `std`.

    Attributes
    ----------
    height, width : int
        Of the tower's input, in pixels.
    resample : int
        PIL's filter: 2 bilinear, 3 bicubic.
    mean, std : tuple of 3 float
        Per channel, on the scale [0, 1].
    shortest_edge : int or None
        None squashes the whole picture. A number keeps its proportions: the shorter side becomes that
        many pixels, and the centre is cut out.
    crop_to_nearest : bool
        Where the margins around the centre are odd: whether half a pixel is rounded as torchvision does (to the
        even), or cut off as transformers does.
    """

    height: int
    width: int
    resample: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    shortest_edge: int | None = None
    crop_to_nearest: bool = False

    @property
    def sees_all(self) -> bool:
        """Whether the network sees the whole picture, squashed, and not only its centre."""
        return self.shortest_edge is None

    @classmethod
    def find(cls, folder: Path) -> Preprocessing:
        """Read what a hub's folder says: a table of ``processor_config.json``, or ``preprocessor_config.json``.

        transformers 5 writes the former, and goes by it where there are both.

        Raises
        ------
        ModelError
            As those of `read`.
        """
        path = folder / "processor_config.json"
        return cls.read(path if _nested(path) else folder / "preprocessor_config.json")

    @classmethod
    def read(cls, path: Path) -> Preprocessing:
        """Read ``preprocessor_config.json`` in the hub's layout, or such a table in ``processor_config.json``.

        Raises
        ------
        ModelError
            If the file is missing or asks for something that this version does not do.
        """
        try:
            config: dict[str, Any] = _nested(path) or json.loads(path.read_text(encoding="utf-8"))
            size = config["size"]
            shortest_edge = _shortest_edge(size)
            crops = config.get("do_center_crop", False)
            if crops != (shortest_edge is not None):
                raise ModelError(
                    f"{path}: a fixed height and width without cropping, or a shortest edge with a centre crop "
                    f"can be done, not size {size!r} with do_center_crop {crops!r}"
                )
            height, width = _height_and_width(config["crop_size"] if crops else size)
            if shortest_edge is not None and max(height, width) > shortest_edge:
                raise ModelError(f"{path}: the crop of {height} × {width} is larger than the shortest edge")
            scaled = config.get("do_rescale", True) and math.isclose(
                config.get("rescale_factor", 1 / 255), 1 / 255, rel_tol=1e-6
            )
            if not (scaled and config.get("do_resize", True) and config.get("do_normalize", True)):
                raise ModelError(f"{path}: pictures must be resized, rescaled by 1/255 and normalised")
            return cls(
                height=height,
                width=width,
                resample=int(config.get("resample", 3)),
                mean=tuple(float(value) for value in config["image_mean"]),
                std=tuple(float(value) for value in config["image_std"]),
                shortest_edge=shortest_edge,
                crop_to_nearest=bool(config.get("crop_to_nearest", False)),
            )
        except OSError as error:
            raise ModelError(f"cannot read {path}: {error.strerror}") from error
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{path} is not a preprocessor file: {error!r}") from error

    def write(self, path: Path) -> None:
        """Write ``preprocessor_config.json`` in the hub's layout."""
        fixed = {"height": self.height, "width": self.width}
        crops = self.shortest_edge is not None
        config = {
            "do_resize": True,
            "size": {"shortest_edge": self.shortest_edge} if crops else fixed,
            "resample": self.resample,
            "do_center_crop": crops,
            **({"crop_size": fixed} if crops else {}),
            "do_rescale": True,
            "rescale_factor": 1 / 255,
            "do_normalize": True,
            "image_mean": list(self.mean),
            "image_std": list(self.std),
            **({"crop_to_nearest": True} if self.crop_to_nearest else {}),
        }
        path.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")

    @property
    def needed_side(self) -> int:
        """The shortest side, in pixels, below which detail would be lost."""
        return self.shortest_edge or max(self.height, self.width)

    def __call__(self, image: Image.Image, *, exact: bool = False) -> Pixels:
        """Turn an upright RGB picture into float32 ``(3, height, width)``.

        Parameters
        ----------
        image : PIL image
            Upright, RGB.
        exact : bool
            Compute every pixel as the references do. The fast way first halves what is much larger, and never
            computes what the crop drops: about 1 of 255 apart.
        """
        image = self._resized(image) if exact else self._resized_fast(image)
        std = np.asarray(self.std, dtype=np.float32)
        scale, shift = 1 / (255 * std), np.asarray(self.mean, dtype=np.float32) / std
        pixels: Pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32, order="C")  # (h, w, 3) → (3, h, w)
        pixels *= scale[:, None, None]
        pixels -= shift[:, None, None]
        return pixels

    def _resized(self, image: Image.Image) -> Image.Image:
        width, height = self._resized_size(*image.size)
        if image.size != (width, height):
            image = image.resize((width, height), self.resample)
        left, top = self._margins(width, height)
        return image.crop((left, top, left + self.width, top + self.height))

    def _resized_fast(self, image: Image.Image) -> Image.Image:
        box = self._box(*image.size)
        if box == (0, 0, self.width, self.height) and image.size == (self.width, self.height):
            return image
        return image.resize((self.width, self.height), self.resample, box=box, reducing_gap=2.0)

    def _resized_size(self, width: int, height: int) -> tuple[int, int]:
        if self.shortest_edge is None:
            return self.width, self.height
        shorter = min(width, height)
        return self.shortest_edge * width // shorter, self.shortest_edge * height // shorter

    def _margins(self, width: int, height: int) -> tuple[int, int]:
        """Find what is cut off, left and top, of a picture that is this large after resizing."""
        if self.crop_to_nearest:
            return round((width - self.width) / 2), round((height - self.height) / 2)
        return (width - self.width) // 2, (height - self.height) // 2

    def _box(self, width: int, height: int) -> Box:
        """Find what of a picture is kept: left, top, right, bottom, in its own pixels.

        With a shortest edge, the picture is resized as a whole in whole pixels, and the crop begins at
        a whole pixel, as transformers' CLIP does; only the part inside the crop is ever computed.
        """
        resized_width, resized_height = self._resized_size(width, height)
        left, top = self._margins(resized_width, resized_height)
        per_x, per_y = width / resized_width, height / resized_height
        return (left * per_x, top * per_y, (left + self.width) * per_x, (top + self.height) * per_y)

    def __str__(self) -> str:
        """Short form, recorded in a model's identity."""
        way = "squash" if self.shortest_edge is None else f"shortest {self.shortest_edge} centre"
        way += " nearest" if self.crop_to_nearest else ""
        return f"{way} {self.height}x{self.width} filter {self.resample} mean {self.mean} std {self.std}"


@dataclass(frozen=True)
class Transform:
    """A library's own way from a picture to an array, where `Preprocessing` cannot say it.

    Attributes
    ----------
    function : callable
        Takes an upright RGB picture and gives a float tensor ``(3, height, width)``.
    height, width : int
        Of its result, in pixels.
    description : str
        Recorded in a model's identity.
    """

    function: Callable[[Image.Image], Any]
    height: int
    width: int
    description: str

    @property
    def needed_side(self) -> None:
        """Nothing is known of what it drops: pictures are decoded in full."""
        return

    def __call__(self, image: Image.Image, *, exact: bool = False) -> Pixels:  # noqa: ARG002
        """Turn an upright RGB picture into float32 ``(3, height, width)``."""
        return np.asarray(self.function(image), dtype=np.float32)

    def write(self, path: Path) -> None:
        """Refuse: a hub's preprocessor file cannot say it."""
        raise ModelError(f"{path.name} cannot say how pictures are prepared ({self.description}); torch is needed")

    def __str__(self) -> str:
        """Short form, recorded in a model's identity."""
        return self.description


def _shortest_edge(size: Any) -> int | None:
    if isinstance(size, int):
        return size
    return int(size["shortest_edge"]) if "shortest_edge" in size else None


def _height_and_width(size: Any) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else (int(size["height"]), int(size["width"]))


def _nested(path: Path) -> dict[str, Any]:
    """Read the table of ``processor_config.json`` that says how pictures are prepared; empty if there is none."""
    try:
        said = json.loads(path.read_text(encoding="utf-8")) if path.name == "processor_config.json" else {}
    except (OSError, ValueError):  # whoever needs it will say so
        return {}
    table = said.get("image_processor") if isinstance(said, dict) else None
    return table if isinstance(table, dict) else {}
