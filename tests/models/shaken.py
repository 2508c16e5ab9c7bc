"""Random weights that say different things of different inputs, and how to compare what two networks say."""

from __future__ import annotations

import numpy as np


def shaken(network, seed=0):
    """A network whose outputs depend on its input: as they start, many say nearly the same of everything."""
    import torch

    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim <= 1:
                parameter += 0.1 * noise
            else:
                gain = 2 if parameter.ndim == 4 else 1  # convolutions lose half of it to their ReLU
                parameter.copy_(noise * (1 if "embedding" in name else (gain / parameter[0].numel()) ** 0.5))
    return network.eval()


def unit(vectors):
    """Vectors of a torch network, of unit length."""
    return (vectors / vectors.norm(dim=-1, keepdim=True)).numpy()


def distance(found, expected):
    """How far cosines are apart, as a fraction of how much they vary over inputs at all.

    The cosines are those to fixed random directions, so that one tower can be judged without the other.
    """
    directions = np.random.default_rng(0).normal(size=(expected.shape[1], 16)).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=0)
    spread = (expected @ directions).std(axis=0).mean()
    assert spread > 0.08 * expected.shape[1] ** -0.5, "the network is blind: nothing would be compared"
    return np.abs((found - expected) @ directions).max() / spread
