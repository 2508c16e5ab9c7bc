"""The version of mmrag, read by the build and written into manifests."""

__version__ = "0.1.0"
