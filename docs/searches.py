"""Draw searches.jpg: five searches over photographs in the public domain, and their three best hits.

    python docs/searches.py

The photographs come with scikit-image: "chelsea" by Stéfan van der Walt, "coffee" by Rachel Michetti, "astronaut"
and "moon" by NASA, "rocket" by SpaceX, "motorcycle" by Daniel Scharstein, "hubble" by NASA and ESA, and others; all
are CC0 or in the public domain.
"""

from __future__ import annotations

import importlib.util
import tempfile
from pathlib import Path

from PIL import Image, ImageDraw, ImageFont

import mmrag
from mmrag.sources.image import read_image

NAMES = (
    "astronaut.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png", "gravel.png",
    "hubble_deep_field.jpg", "moon.png", "motorcycle_left.png", "page.png", "rocket.jpg",
)  # fmt: skip
QUERIES = ("a cat", "a cup of coffee", "a red motorcycle", "a rocket launch", "a man with a camera")
SIDE, GAP, TEXT = 150, 8, 30


def main() -> None:
    spec = importlib.util.find_spec("skimage")
    data = Path(spec.submodule_search_locations[0], "data")
    with tempfile.TemporaryDirectory() as home:
        index = mmrag.create(home)
        index.add([mmrag.Item(uri=name, image=data / name) for name in NAMES])
        answers = index.search(list(QUERIES), k=3)
    width = len(QUERIES) * (SIDE + GAP) + GAP
    sheet = Image.new("RGB", (width, TEXT + 3 * (SIDE + GAP)), "white")
    draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(13)
    for column, (words, hits) in enumerate(zip(QUERIES, answers, strict=True)):
        left = GAP + column * (SIDE + GAP)
        draw.text((left, 8), f"“{words}”", "black", font)
        for row, hit in enumerate(hits):
            picture = read_image((data / hit.item.uri).read_bytes()).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
            top = TEXT + row * (SIDE + GAP)
            sheet.paste(picture, (left, top))
            draw.rectangle((left, top + SIDE - 16, left + 40, top + SIDE), "white")
            draw.text((left + 3, top + SIDE - 15), f"{hit.score:.2f}", "black", font)
    sheet.save(Path(__file__).with_name("searches.jpg"), quality=85, optimize=True)


if __name__ == "__main__":
    main()
