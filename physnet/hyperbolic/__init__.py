"""Hyperbolic space in four models: Poincare ball, Klein ball, hyperboloid and polar coordinates."""

from physnet.hyperbolic import poincare as poincare
from physnet.hyperbolic import polar as polar
