"""Files of many items, made for tests, and what an index says of them."""

from __future__ import annotations

import io
import json
import os
import tarfile

from PIL import Image

from tests.toy import COLOURS


def png(colour):
    file = io.BytesIO()
    Image.new("RGB", (8, 8), COLOURS[colour]).save(file, "PNG")
    return file.getvalue()


def write_tar(path, samples, mode="w"):
    """Write samples: a name, what is called a picture, and its words."""
    with tarfile.open(path, mode) as archive:
        for name, data, words in samples:
            for suffix, content in ((".png", data), (".json", json.dumps(words).encode())):
                if content is not None:
                    member = tarfile.TarInfo(name + suffix)
                    member.size = len(content)
                    archive.addfile(member, io.BytesIO(content))


def sample(name, colour, **facts):
    return name, png(colour), {"captions": [f"{colour} one", f"{colour} two"], **facts}


def touch(path):
    """Let a file be one that has changed, whatever the clock's resolution."""
    about = path.stat()
    os.utime(path, ns=(about.st_atime_ns, about.st_mtime_ns + 10**9))


def counts(changes):
    return (changes.added, changes.updated, changes.moved, changes.removed, changes.unchanged, len(changes.failed))


def top(index, words):
    item = index.search(words, k=1)[0].item
    return item.uri, item.part
