"""What was found, as self-contained web pages."""

from mmrag.report.search import write_search_page

__all__ = ["write_search_page"]
