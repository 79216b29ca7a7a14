"""Scattering attention in Pallas Mosaic GPU, for Hopper."""

from physnet_kernels.scattering_attention._mosaic_backward import backward as backward
from physnet_kernels.scattering_attention._mosaic_forward import forward as forward
from physnet_kernels.scattering_attention._types import Labels as Labels
from physnet_kernels.scattering_attention._types import Lists as Lists
from physnet_kernels.scattering_attention._types import Marks as Marks
from physnet_kernels.scattering_attention._types import Rule as Rule
