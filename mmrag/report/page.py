"""A page that needs nothing but itself: no script, no request, no font of anyone else's."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import os
from html import escape
from importlib import resources
from pathlib import Path

from mmrag.errors import InputError


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
    """Write a page in one step: whoever opens it sees the old one or the new one, never a half.

    Raises
    ------
    InputError
        If it cannot be written there.
    """
    aside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        if path.is_dir():
            raise IsADirectoryError("it is a folder; name a file in it")
        aside.write_text(html, encoding="utf-8")
        os.replace(aside, path)
    except OSError as error:
        raise InputError(f"cannot write {str(path)!r}: {error.strerror or error}") from error
    finally:
        with contextlib.suppress(OSError):
            aside.unlink(missing_ok=True)
