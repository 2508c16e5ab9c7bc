"""What was found and answered, and what became of pairs, as self-contained web pages."""

from mmrag.report.answer import write_answer_page
from mmrag.report.bootstrap import write_bootstrap_page
from mmrag.report.illustrated import write_illustrated_page
from mmrag.report.search import write_search_page

__all__ = ["write_answer_page", "write_bootstrap_page", "write_illustrated_page", "write_search_page"]
