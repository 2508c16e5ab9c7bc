"""Pictures → pairs: a generator describes them, a matcher keeps what it believes (CapFilt of BLIP)."""

from mmrag.bootstrap.describe import Writing
from mmrag.bootstrap.outcome import BootstrapReport
from mmrag.bootstrap.run import bootstrap

__all__ = ["BootstrapReport", "Writing", "bootstrap"]
