"""Short ways to write filters that are asked for often: by place, by date, by modality."""

from __future__ import annotations

import re
from datetime import date

from mmrag.errors import QueryError
from mmrag.search.condition import check_place, metres

_MODALITIES = {"images": "image", "text": "text"}
_NUMBER = r"\s*([+-]?(?:\d+(?:\.\d*)?|\.\d+))\s*"
_DATE = re.compile(r"(\d{4})(?:-(\d{2}))?(?:-(\d{2}))?", re.ASCII)


def near(place: str) -> str:
    """Make the filter for what was taken near a place.

    Parameters
    ----------
    place : str
        Latitude and longitude in degrees, and a radius: "48.85,2.35,5km".

    Raises
    ------
    QueryError
        If it is none of the earth.
    """
    found = re.fullmatch(f"{_NUMBER},{_NUMBER},(.*)", place, re.ASCII)
    if found is None:
        raise QueryError(f"a place is LATITUDE,LONGITUDE,RADIUS, such as 48.85,2.35,5km, not {place!r:.60}")
    latitude, longitude, radius = found.groups()
    check_place(float(latitude), float(longitude))
    metres(radius)
    return f"near({latitude}, {longitude}, '{radius.strip()}')"


def after(day: str) -> str:
    """Make the filter for what was taken from the first moment of a day, month or year on."""
    return f"taken_at >= '{_date(day)}'"


def before(day: str) -> str:
    """Make the filter for what was taken before the first moment of a day, month or year."""
    return f"taken_at < '{_date(day)}'"


def only(modality: str) -> str:
    """Make the filter for "images", or for "text".

    Raises
    ------
    QueryError
        If it is neither.
    """
    if modality not in _MODALITIES:
        raise QueryError(f"only {' or '.join(_MODALITIES)} can be asked for, not {modality!r:.40}")
    return f"modality = '{_MODALITIES[modality]}'"


def _date(day: str) -> str:
    """Check a date; times in ISO 8601 sort as text does, and so do their beginnings."""
    found = _DATE.fullmatch(day.strip())
    try:
        if found is None:
            raise ValueError
        date(int(found[1]), int(found[2] or 1), int(found[3] or 1))
    except ValueError as error:
        raise QueryError(f"a date is a day, month or year, 2023-06-01, 2023-06 or 2023, not {day!r:.40}") from error
    return found[0]
