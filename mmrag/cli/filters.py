"""Options that say which items count at all, as all commands that search have them."""

from __future__ import annotations

from typing import Annotated

import typer

PANEL = "Filters (all must pass)"

WhereOption = Annotated[
    str | None,
    typer.Option(
        metavar="FILTER",
        rich_help_panel=PANEL,
        help="Only what passes, such as \"year >= 2022 and camera like 'Canon%'\".",
    ),
]
NearOption = Annotated[
    str | None,
    typer.Option(metavar="LAT,LON,RADIUS", rich_help_panel=PANEL, help="Only what was taken there: 48.85,2.35,5km."),
]
AfterOption = Annotated[
    str | None,
    typer.Option(metavar="DATE", rich_help_panel=PANEL, help="Only what was taken from this day, month or year on."),
]
BeforeOption = Annotated[
    str | None,
    typer.Option(metavar="DATE", rich_help_panel=PANEL, help="Only what was taken before this day, month or year."),
]
OnlyOption = Annotated[str | None, typer.Option(metavar="images|text", rich_help_panel=PANEL, help="Only these.")]


def filter_of(
    where: str | None, near: str | None, after: str | None, before: str | None, only: str | None
) -> str | None:
    """Write the one filter that all of these make."""
    from mmrag.search import shorthand
    from mmrag.search.condition import both

    short = ((shorthand.near, near), (shorthand.after, after), (shorthand.before, before), (shorthand.only, only))
    return both(where, *(None if given is None else write(given) for write, given in short))
