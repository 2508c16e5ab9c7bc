"""What counts as a picture by its name, and how large one may be."""

SUFFIXES = frozenset(
    [
        *(".avif", ".bmp", ".gif", ".heic", ".heif", ".jfif", ".jpe"),
        *(".jpeg", ".jpg", ".mpo", ".png", ".tif", ".tiff", ".webp"),
    ]
)
MAX_PIXELS = 178_000_000
MAX_BYTES = 1 << 30
