"""`mmrag` as a program, also `python -m mmrag`: quick to start, and quick to leave."""

from __future__ import annotations

import gc
import os
import sys


def run() -> None:
    """Run the command line and end the process.

    What start-up makes is there to stay, so the collector looks for garbage less often; and at the
    end the system takes back at once what Python would first take apart, a tenth of a short search.
    """
    gc.set_threshold(50_000)
    from mmrag.cli.main import main

    code = 0
    try:
        main()
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except BrokenPipeError:  # nobody reads any more
        code = code or 1
    except KeyboardInterrupt:
        code = 130
    except OSError as error:
        os.write(2, f"mmrag: the results could not be written: {error.strerror}\n".encode())
        code = code or 1
    os._exit(code)


if __name__ == "__main__":
    run()
