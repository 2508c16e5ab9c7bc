"""Networks of transformers', read from a checkpoint that is here."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from mmrag.errors import ModelError
from mmrag.models.network import import_transformers

if TYPE_CHECKING:
    from mmrag.models.checkpoint import Checkpoint


def load_pretrained(checkpoint: Checkpoint, architecture: str, dtype: Any) -> Any:
    """Load a network with all its weights; nothing is downloaded, and no code comes from the checkpoint.

    Parameters
    ----------
    checkpoint : Checkpoint
        Where its files are.
    architecture : str
        A class of transformers, such as "Blip2ForImageTextRetrieval".
    dtype : torch.dtype
        What the weights become.

    Raises
    ------
    ModelError
        If files are missing or damaged, or lack weights that the architecture has: transformers would make them up.
    """
    transformers = import_transformers()
    try:
        network, found = getattr(transformers, architecture).from_pretrained(
            checkpoint.path, local_files_only=True, dtype=dtype, output_loading_info=True
        )
    except Exception as error:  # safetensors, transformers and torch each raise their own
        raise ModelError(f"{checkpoint.path} cannot be loaded as {architecture}: {error}") from error
    if found["missing_keys"]:
        some = ", ".join(sorted(found["missing_keys"])[:3])
        raise ModelError(
            f"{checkpoint.path} lacks {len(found['missing_keys'])} weights of {architecture} ({some} …); "
            "fetch the model again, or one that was made for this"
        )
    return network
