"""Exact attention over the pairs and blocks that a gate keeps."""

from physnet.attention._scattering import scattering_attention as scattering_attention
