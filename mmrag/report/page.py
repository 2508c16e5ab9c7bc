"""A page that needs nothing but itself: no script, no request, no font of anyone else's."""

from __future__ import annotations

import base64
import hashlib
from html import escape
from importlib import resources
from pathlib import Path

from mmrag.report.replace import replacing


def page(title: str, body: str) -> str:
    """Make a whole HTML5 page.

    Its content security policy allows the one style sheet, by its hash, and pictures that are in the page itself:
    whatever a name or a text may hold, a browser runs nothing and asks nobody.

    Parameters
    ----------
    title : str
        Plain text.
    body : str
        HTML, with everything foreign in it escaped.
    """
    style = resources.files("mmrag.report").joinpath("style.css").read_text("utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        '<meta name="referrer" content="no-referrer">\n'
        f"<title>{text(title)}</title>\n<style>{style}</style>\n</head>\n<body>\n{body}\n</body>\n</html>\n"
    )


def text(words: str) -> str:
    """Make foreign text safe anywhere in a page, in attributes too; what cannot be shown is written out."""
    shown = (c if c.isprintable() or c in "\n\t " else c.encode("unicode_escape").decode() for c in words)
    return escape("".join(shown), quote=True)


def write_page(path: Path, html: str) -> None:
    """Write a page as `replacing` does.

    Raises
    ------
    InputError
        If it cannot be written there.
    """
    with replacing(path) as file:
        file.write(html)
