"""A folder that was trained → the folder of the model that ships; its card keeps what it says in words.

python -m mmrag.train.install .build/words mmrag/models/builtin
"""

from __future__ import annotations

import argparse
from pathlib import Path

from mmrag.train.edition import WEIGHTS_NAME, card_of, write_edition
from mmrag.train.start import load_start


def install(source: Path, folder: Path) -> None:
    """Write the graphs of a trained folder into another, whose weights need no other files."""
    start = load_start(str(source))
    write_edition(start, folder, card=card_of(folder, start))
    (folder / WEIGHTS_NAME).unlink()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("folder", type=Path)
    install(**vars(parser.parse_args()))
