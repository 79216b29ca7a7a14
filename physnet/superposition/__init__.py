"""Superposition training: clouds of parameters instead of points."""

from physnet.superposition import distill as distill
from physnet.superposition import path_integral as path_integral
