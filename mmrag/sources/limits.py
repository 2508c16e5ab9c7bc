"""What counts as a picture by its name, and how large one may be.

Whatever the number of threads, the files that are read at once hold at most `MAX_BYTES`, and the pictures
that are decoded at once have at most `MAX_PIXELS`, each at `WORKING_BYTES` or less: 1 GB and 3 GB in the
worst case, beside what the allocator of the C library keeps of freed memory, up to 64 MB for each thread.
Photographs take a hundredth of it.
"""

SUFFIXES = frozenset(
    [
        *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe"),
        *(".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"),
    ]
)
MAX_PIXELS = 178_000_000
MAX_BYTES = 1 << 30
WORKING_BYTES = 17
"""Per pixel, while it is decoded and converted: what was measured in the worst format, WebP."""
