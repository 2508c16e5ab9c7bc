"""The run: describe what is new, judge it, keep what is believed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from mmrag.bootstrap.candidates import find_candidates
from mmrag.bootstrap.describe import Writing, describe
from mmrag.bootstrap.journal import NAME, Journal
from mmrag.bootstrap.outcome import DROPPED, PAGE, PAIRS, BootstrapReport, Rule, shown_image, write_outcome
from mmrag.errors import InputError, Interrupted
from mmrag.models.registry import load_generator, load_matcher
from mmrag.roles import Generator, Matcher
from mmrag.stores.lock import write_lock


def bootstrap(
    folders: Sequence[str | Path],
    *,
    out: Path,
    caption: str | Generator = "builtin",
    judge: str | Matcher = "builtin",
    writing: Writing | None = None,
    threshold: float = 0.5,
    pairs: Sequence[str | Path] = (),
    text_key: str | None = None,
    keep_human: bool = False,
    exclude: Sequence[str] = (),
    precision: str | None = None,
    device: str = "auto",
    progress: Callable[[int, int], None] | None = None,
) -> BootstrapReport:
    """Make pairs of pictures: captions of a generator, and those of people, that a matcher believes.

    What was described is not described again: a run that was killed goes on, new pictures are added, and another
    `threshold` costs nothing.

    Parameters
    ----------
    folders : sequence of path
        Of pictures.
    out : path
        Folder for ``pairs.jsonl``, which `mmrag.sources.pairs.open_pairs` reads, ``dropped.jsonl`` with every other
        text and the reason, ``report.html`` with examples, and pictures that are no files of their own.
    caption : str or Generator
        What describes, as `mmrag.load_generator` takes it.
    judge : str or Matcher
        What believes, as `mmrag.load_matcher` takes it.
    writing : Writing or None
        How captions are written; None is ``Writing()``.
    threshold : float from 0 to 1
        Least probability of what is kept.
    pairs : sequence of path
        Files of pairs whose texts join; their pictures are described too.
    text_key : str or None
        Where the texts of `pairs` are, as `open_pairs` takes it.
    keep_human : bool
        Keep all of what people have said, whatever the matcher thinks.
    exclude : sequence of str
        Globs of what is left out of the folders.
    precision, device : str
        What models that are given by name compute in, and where, as `mmrag.load_generator` takes them.
    progress : callable or None
        Called with how many pictures are done and how many there are.

    Returns
    -------
    BootstrapReport
        How many were kept and dropped, and what could not be read.

    Raises
    ------
    InputError
        If there is no picture, the folder was begun in another way, or the matcher reads texts only.
    ModelError
        If a model is not here, or plays another role.
    Interrupted
        At Ctrl-C, when what was done is written.

    References
    ----------
    Li et al. 2022, "BLIP: Bootstrapping Language-Image Pre-training …", section 3.3.
    """
    if not 0 <= threshold <= 1:
        raise InputError(f"threshold is a probability, from 0 to 1, not {threshold}")
    writing, rule = writing or Writing(), Rule(threshold, keep_human)
    generator, matcher = _load(caption, judge, precision, device)
    candidates = find_candidates(folders, out=out, pairs=pairs, text_key=text_key, exclude=exclude)
    _make_folder(out)
    failed: dict[str, str] = {}
    with write_lock(out), Journal(out, _settings(generator, matcher, writing)) as journal:
        todo = [one for one in candidates if journal.get(one) is None]
        done = len(candidates) - len(todo)
        try:
            for described in describe(todo, generator, matcher, writing):
                failed.update((shown_image(one.candidate, out), one.problem) for one in described if one.problem)
                journal.add([(one.candidate, one.told) for one in described if not one.problem])
                done += len(described)
                if progress:
                    progress(done, len(candidates))
        except KeyboardInterrupt as error:
            write_outcome(candidates, journal, out, rule, failed)
            raise Interrupted(
                f"stopped; {done:,} of {len(candidates):,} pictures are done, and {out / PAIRS} has their pairs; "
                "the same command goes on"
            ) from error
        return write_outcome(candidates, journal, out, rule, failed)


def _load(
    caption: str | Generator, judge: str | Matcher, precision: str | None, device: str
) -> tuple[Generator, Matcher]:
    """Load both roles; one model that plays both is loaded once."""
    where: dict[str, Any] = {"precision": precision, "device": device}
    generator = load_generator(caption, **where) if isinstance(caption, str) else caption
    if isinstance(judge, Matcher):
        matcher = judge
    elif judge == caption and isinstance(generator, Matcher):
        matcher = generator
    else:
        matcher = load_matcher(judge, **where)
    if "image" not in matcher.card.modalities:
        raise InputError(f"{matcher.card.name} judges texts only; what keeps captions must see pictures: mmrag models")
    return generator, matcher


def _settings(generator: Generator, matcher: Matcher, writing: Writing) -> dict[str, Any]:
    models = {"caption": generator.identity, "judge": matcher.identity}
    named = {role: f"{one.name} {one.revision} {one.weights}" for role, one in models.items()}
    return {**named, **asdict(writing)}


def _make_folder(out: Path) -> None:
    foreign = next((name for name in (PAIRS, DROPPED, PAGE) if (out / name).exists()), None)
    if foreign and not (out / NAME).exists():
        raise InputError(f"{out} has a {foreign} that bootstrap did not write; give another folder")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot make the folder {str(out)!r}: {error.strerror}") from error
