"""What became of pictures and their texts: counted, and written into files of their own."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from mmrag.bootstrap.candidates import Candidate
from mmrag.bootstrap.journal import Journal, Told, json_line
from mmrag.report.bootstrap import Example, write_bootstrap_page
from mmrag.report.replace import replacing

PAIRS, DROPPED, PAGE = "pairs.jsonl", "dropped.jsonl", "report.html"


@dataclass
class BootstrapReport:
    """What became of the pictures.

    Attributes
    ----------
    out : path
        The folder with ``pairs.jsonl``, ``dropped.jsonl`` and ``report.html``.
    pictures : int
        How many were described and judged.
    pairs : int
        How many of them have a text that was kept.
    kept, dropped : Counter of str
        How many texts were, by origin: "human" or "model".
    failed : dict of str to str
        Pictures that could not be read, with the reason; the next run tries them again.
    """

    out: Path
    pictures: int = 0
    pairs: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    failed: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Give it as JSON can hold it, with the paths of what was written."""
        counts = {
            "pictures": self.pictures,
            "pairs": self.pairs,
            "kept": dict(self.kept),
            "dropped": dict(self.dropped),
        }
        return {**counts, "failed": self.failed, "written": [str(self.out / name) for name in (PAIRS, DROPPED, PAGE)]}

    def count(self, kept: Sequence[Told], dropped: Sequence[Told]) -> None:
        """Count a picture with its texts."""
        self.pictures += 1
        self.pairs += bool(kept)
        self.kept.update(one.origin for one in kept)
        self.dropped.update(one.origin for one in dropped)


@dataclass(frozen=True)
class Rule:
    """What is kept.

    Attributes
    ----------
    threshold : float from 0 to 1
        Least probability.
    keep_human : bool
        Keep all of what people have said.
    """

    threshold: float = 0.5
    keep_human: bool = False

    def keeps(self, told: Told) -> bool:
        """Tell whether a text is kept."""
        return told.probability >= self.threshold or (self.keep_human and told.origin == "human")

    def reason(self, told: Told) -> str:
        """Say why a text is dropped."""
        return f"probability {told.probability:.4f} is below {self.threshold:g}"


def shown_image(candidate: Candidate, out: Path) -> str:
    """Write a picture's path as ``pairs.jsonl`` has it: relative, so that both can be moved together."""
    return Path(os.path.relpath(os.path.realpath(candidate.image), os.path.realpath(out))).as_posix()


def write_outcome(
    candidates: Sequence[Candidate], journal: Journal, out: Path, rule: Rule, failed: dict[str, str]
) -> BootstrapReport:
    """Write ``pairs.jsonl``, ``dropped.jsonl`` and ``report.html`` of all that the journal knows."""
    report = BootstrapReport(out, failed=failed)
    examples: list[Example] = []
    with ExitStack() as files:
        pairs, dropped = (files.enter_context(replacing(out / name)) for name in (PAIRS, DROPPED))
        for candidate in candidates:
            told = journal.get(candidate)
            if told is None:
                continue
            image = shown_image(candidate, out)
            kept = [one for one in told if rule.keeps(one)]
            lost = [one for one in told if not rule.keeps(one)]
            report.count(kept, lost)
            if kept:
                texts = {"texts": [one.text for one in kept], "origins": [one.origin for one in kept]}
                pairs.write(json_line({"image": image, **texts}))
            dropped.writelines(json_line({"image": image, **asdict(one), "reason": rule.reason(one)}) for one in lost)
            examples.append(_example(candidate, image, told, rule))
    title = f"{report.pairs:,} pairs of {report.pictures:,} pictures"
    counts = f"{report.kept.total():,} texts kept, {report.dropped.total():,} dropped below {rule.threshold:g}"
    write_bootstrap_page(out / PAGE, title, counts, examples, failed)
    return report


def _example(candidate: Candidate, image: str, told: Sequence[Told], rule: Rule) -> Example:
    texts = tuple((one.text, f"{one.origin} {one.probability:.2f}", rule.keeps(one)) for one in told)
    lowest = min((one.probability for one in told if not rule.keeps(one)), default=None)
    return Example(candidate.image, image, texts, lowest)
