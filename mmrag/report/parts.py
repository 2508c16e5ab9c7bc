"""What several pages show: a picture in its frame, and a path that a click opens."""

from __future__ import annotations

from pathlib import Path

from mmrag.report.page import text
from mmrag.report.thumbnails import Thumbnail


def picture_frame(small: Thumbnail, name: str, *, missing: bool = False) -> str:
    """Show a thumbnail, or say why there is none."""
    if small.uri:
        size = f'width="{small.width}" height="{small.height}"'
        return f'<div class="frame"><img src="{small.uri}" {size} alt="{text(name)}"></div>'
    reason = "not on this disk" if missing else small.problem
    return f'<div class="frame none">{text(reason)}</div>'


def file_link(path: Path, uri: str) -> str:
    """Write a path so that a click opens the file, where there is one."""
    folder, slash, name = uri.rpartition("/")
    shown = f"{text(folder + slash)}<b>{text(name)}</b>"
    return f'<a href="{text(path.as_uri())}">{shown}</a>' if path.exists() else shown
