"""What one kind of metadata says of a picture: words, and facts by name."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

MOST_CHARACTERS = 10_000
"""Of one title, description or keyword; what is longer is no word that somebody wrote."""

_JUNK = re.compile(
    r"(\w+ )?(digital )?((still )?camera|dsc)( pictures)?|dcim|\w+ dsc\w*|exif_jpeg_picture|default|untitled"
    r"|image ?description|picture|created with (the )?gimp|hdrpl|<?digimax.*|charset=ascii|ascii|unicode|jpeg",
    re.IGNORECASE,
)
"""What cameras and programs write where a person would have described the picture."""


@dataclass
class Found:
    """What one kind of metadata says.

    Attributes
    ----------
    kind : str
        Which: "EXIF", "IPTC", "XMP", or the format whose own texts they are.
    titles, descriptions, keywords : list of str
        Clean, and none of them empty.
    facts : dict
        Names and values as JSON holds them.
    """

    kind: str
    titles: list[str] = field(default_factory=list)
    descriptions: list[str] = field(default_factory=list)
    keywords: list[str] = field(default_factory=list)
    facts: dict[str, Any] = field(default_factory=dict)

    @property
    def has_words(self) -> bool:
        """Whether it says anything in words."""
        return bool(self.titles or self.descriptions or self.keywords)


def clean(text: str) -> str:
    """Put a text on one line without control characters; empty if a camera wrote it and no person."""
    printable = "".join(c if c.isprintable() else " " for c in text[:MOST_CHARACTERS])
    line = " ".join(printable.encode("utf-8", "ignore").decode().split())
    return "" if _JUNK.fullmatch(line) else line


def decode(data: bytes) -> str:
    """Read bytes whose encoding nobody told: UTF-8 if they are, Latin-1 otherwise."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("latin-1")


def camera_name(make: str, model: str) -> str:
    """Join make and model; most models begin with the make, or with its first word."""
    first = make.split()[:1]
    repeats = [word.casefold() for word in model.split()[:1]] == [word.casefold() for word in first]
    return model if repeats else f"{make} {model}".strip()


def iso_time(text: str) -> str | None:
    """Bring a date, maybe with a time and an offset, to ISO 8601; None if it is none."""
    try:
        found = datetime.fromisoformat(text.strip())
    except ValueError:
        return None
    return found.date().isoformat() if len(text.strip()) <= len("2023-06-01") else found.isoformat()


def position(latitude: float | None, longitude: float | None, altitude: float | None = None) -> dict[str, float]:
    """Make facts of a place: degrees, north and east above 0, and metres above the sea."""
    if latitude is None or longitude is None or not (abs(latitude) <= 90 and abs(longitude) <= 180):
        return {}  # `not (… <= …)` is true of nan
    facts = {"latitude": round(latitude, 6), "longitude": round(longitude, 6)}
    if altitude is not None and abs(altitude) < 1e5:
        facts["altitude"] = round(altitude, 1)
    return facts
