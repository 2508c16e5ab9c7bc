"""An illustrated text as a page: the text, and in it the pictures that were found for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from markdown_it.renderer import RendererHTML

from mmrag.report.page import page, text, write_page
from mmrag.report.parts import file_link, picture_frame
from mmrag.report.thumbnails import Thumbnail, thumbnails
from mmrag.sources.parts import PartOf
from mmrag.sources.text.markdown import commonmark, front_matter, read_markdown
from mmrag.sources.uri import path_of, shown_name

if TYPE_CHECKING:
    from markdown_it import MarkdownIt
    from markdown_it.token import Token

    from mmrag.compose.answer import Placement
    from mmrag.compose.illustrated import Illustrated


def write_illustrated_page(path: str | Path, illustrated: Illustrated, *, home: Path) -> int:
    """Write a self-contained HTML page of an illustrated text.

    Small versions of the pictures are inside; a click on a path opens the file where it still is. HTML that stands in
    the text is shown, and not acted upon.

    Parameters
    ----------
    path : str or path
        The file, replaced in one step.
    illustrated : Illustrated
        The text and its pictures.
    home : path
        The folder that uris are relative to: `Index.home`.

    Returns
    -------
    int
        The page's size in bytes.

    Raises
    ------
    InputError
        If it cannot be written there.
    """
    html = illustrated_page(illustrated, home=home)
    write_page(Path(path), html)
    return len(html.encode())


def illustrated_page(illustrated: Illustrated, *, home: Path) -> str:
    """Make the page that `write_illustrated_page` writes."""
    title = read_markdown(illustrated.text).title or "Illustrated text"
    count = f"{len(illustrated.placements):,} of {illustrated.sentences:,} sentences with a picture"
    body = "\n".join(_body(illustrated, home))
    return page(
        f"{title} – mmrag", f'<main class="prose">\n{body}\n</main>\n<footer>{count}, from {text(str(home))}</footer>'
    )


def _body(illustrated: Illustrated, home: Path) -> Iterator[str]:
    """Write the text block by block, and behind the block of a sentence its picture."""
    words = illustrated.text.replace("\r\n", " \n")
    done = sum(len(line) for line in words.splitlines(keepends=True)[: front_matter(words)[1]])
    reader, env = _reader(), dict[str, Any]()
    reader.parse(words[done:], env)  # a link may be defined in another block
    insertions = list(illustrated.insertions())
    shown = thumbnails([PartOf(path_of(one.item.uri, home), one.item.part) for _, one in insertions])
    for (at, one), small in zip(insertions, shown, strict=True):
        yield reader.render(words[done:at], env)
        yield _figure(one, small, home)
        done = at
    yield reader.render(words[done:], env)


def _figure(placement: Placement, small: Thumbnail, home: Path) -> str:
    item = placement.item
    path = home / item.uri
    frame = picture_frame(small, placement.caption, missing=not path.exists())
    source = f"{file_link(path, shown_name(item.uri, item.part))} p {placement.probability:.2f}"
    return (
        f'<figure id="{text(item.id)}">{frame}<figcaption>{text(placement.caption)}<br>{source}</figcaption></figure>'
    )


def _reader() -> MarkdownIt:
    """Make a reader that shows HTML instead of passing it on, and links to pictures that a page cannot load."""
    reader = commonmark()
    reader.add_render_rule("html_block", _shown)
    reader.add_render_rule("html_inline", _shown)
    reader.add_render_rule("image", _linked)
    return reader


def _shown(_: RendererHTML, tokens: Sequence[Token], number: int, *__: Any) -> str:
    return f"<code>{text(tokens[number].content)}</code>"


def _linked(_: RendererHTML, tokens: Sequence[Token], number: int, *__: Any) -> str:
    token = tokens[number]
    return f'<a href="{text(str(token.attrs.get("src", "")))}">{text(token.content or "picture")}</a>'
