from __future__ import annotations

import subprocess
import sys

import mmrag


def test_the_public_names_are_exactly_these():
    assert mmrag.__all__ == [
        *(
            "Answer",
            "Card",
            "Changes",
            "Chat",
            "Checkup",
            "Classification",
            "Compaction",
            "Encoder",
            "Fact",
            "Failure",
            "Generator",
            "Hit",
        ),
        *("Identity", "Index", "Item", "Judgement", "Matcher", "MmragError", "Model", "Query", "Term", "Version"),
        *("__version__",),
        *("ask", "classify", "create", "evaluate_captions", "evaluate_pairs", "illustrate"),
        *("load_encoder", "load_generator", "load_matcher", "open", "parse_query", "register"),
    ]
    assert dir(mmrag) == mmrag.__all__
    assert all(getattr(mmrag, name) is not None for name in mmrag.__all__)


def test_importing_mmrag_imports_nothing_heavy():
    code = "import sys, mmrag; assert not {'numpy', 'pyarrow', 'PIL', 'lancedb', 'typer'} & set(sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


def test_submodules_do_not_shadow_public_names():
    code = (
        "import mmrag, mmrag.index, mmrag.evaluate, mmrag.cli.main;"
        "assert all(callable(getattr(mmrag, n)) or n == '__version__' for n in mmrag.__all__)"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
