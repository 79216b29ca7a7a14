"""Exact attention over the pairs and blocks that a gate keeps."""

from physnet.attention._block_sparse import block_sparse_attention as block_sparse_attention
from physnet.attention._scattering import scattering_attention as scattering_attention
