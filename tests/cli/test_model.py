from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(("arguments", "said"), [(["models"], "export"), (["models", "export"], "--to")])
def test_help_of_models_is_light(arguments, said):
    code = (
        f"import sys; sys.argv = ['mmrag', *{arguments}, '--help']\n"
        "from mmrag.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code\n"
        "assert not {'torch', 'numpy', 'onnxruntime', 'open_clip'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert said in done.stdout
