"""Labels, and the templates that make sentences of them."""

from __future__ import annotations

import unicodedata
from collections import Counter
from collections.abc import Sequence
from importlib import resources
from pathlib import Path

from mmrag.errors import InputError
from mmrag.models.cards import Card

SHIPPED = ("imagenet", "chinese")
PLAIN = ("{}",)

_HOLE = "{}"


def choose_templates(templates: str | Sequence[str] | None, card: Card, labels: Sequence[str]) -> tuple[str, ...]:
    """Choose what makes sentences of labels.

    Parameters
    ----------
    templates : str, sequence of str, or None
        "imagenet" (CLIP's 80, English), "chinese" (Chinese-CLIP's 80), "plain" (the label alone), the path of a file
        with a template a line, or the templates themselves. In each, ``{}`` is where the label goes. By default
        what suits the languages that the model reads.
    card : Card
        Of the model.
    labels : sequence of str
        A model that reads both English and Chinese gets the templates of the labels' language.

    Raises
    ------
    InputError
        If a template has no ``{}``, or the file cannot be read.
    """
    if templates is None:
        templates = _suitable(card, labels)
    if isinstance(templates, str):
        return PLAIN if templates == "plain" else _read_templates(templates)
    return _checked(templates, "the templates")


def _suitable(card: Card, labels: Sequence[str]) -> str:
    reads = set(card.languages)
    if "zh" in reads and ("en" not in reads or all(map(_is_chinese, labels))):
        return "chinese"
    return "imagenet" if "en" in reads or not reads else "plain"


def _is_chinese(label: str) -> bool:
    return any(unicodedata.name(char, "").startswith("CJK") for char in label)


def _read_templates(name: str) -> tuple[str, ...]:
    if name in SHIPPED:
        text = resources.files("mmrag.zeroshot").joinpath(f"{name}.txt").read_text("utf-8")
    else:
        text = _read_text(name, f"there are no templates {name!r}; give {', '.join(SHIPPED)}, plain or a file")
    return _checked([line for line in text.splitlines() if line.strip() and not line.startswith("#")], name)


def _checked(templates: Sequence[str], where: str) -> tuple[str, ...]:
    wrong = next((one for one in templates if _HOLE not in one), None)
    if wrong is not None or not templates:
        found = "are none" if wrong is None else f"is {wrong!r}"
        raise InputError(f"in {where} there {found}; a template has {_HOLE} where the label goes: a photo of a {_HOLE}")
    return tuple(templates)


def fill(template: str, label: str) -> str:
    """Put a label into a template."""
    return template.replace(_HOLE, label)


def clean_labels(labels: Sequence[str]) -> tuple[str, ...]:
    """Strip labels and check them.

    Raises
    ------
    InputError
        If there are fewer than two, or one is there twice.
    """
    if isinstance(labels, str):
        raise InputError(f"labels are a list; put them into one: {labels.split(',')}")
    cleaned = tuple(label.strip() for label in labels if label.strip())
    twice = [label for label, times in Counter(cleaned).items() if times > 1]
    if twice:
        raise InputError(f"the label {twice[0]!r} is there twice")
    if len(cleaned) < 2:
        given = f"there is only {cleaned[0]!r}" if cleaned else "there is none"
        raise InputError(
            f"at least two labels are needed, because probabilities compare them; {given}. Name them: "
            "--labels cat,dog or --labels FILE.txt, or put the pictures in folders named as their labels"
        )
    return cleaned


def read_labels(path: str | Path) -> tuple[str, ...]:
    """Read labels from a file, one a line.

    Raises
    ------
    InputError
        If it cannot be read, or as `clean_labels`.
    """
    return clean_labels(_read_text(str(path), f"there is no file of labels {str(path)!r}").splitlines())


def folder_labels(uris: Sequence[str]) -> tuple[str, ...]:
    """Take the names of the folders that pictures lie in as labels; an underscore is a space.

    Raises
    ------
    InputError
        As `clean_labels`.
    """
    return clean_labels(sorted({folder_name(uri).replace("_", " ") for uri in uris}))


def folder_name(uri: str) -> str:
    """Name the folder that a picture lies in; empty where its uri names none."""
    return uri.rpartition("/")[0].rpartition("/")[2]


def _read_text(path: str, missing: str) -> str:
    try:
        return Path(path).expanduser().read_text(encoding="utf-8-sig")
    except FileNotFoundError as error:
        raise InputError(missing) from error
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read: {getattr(error, 'strerror', None) or error}") from error
