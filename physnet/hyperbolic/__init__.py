"""Hyperbolic space in four models: Poincare ball, Klein ball, hyperboloid and polar coordinates."""

from physnet.hyperbolic import klein as klein
from physnet.hyperbolic import lorentz as lorentz
from physnet.hyperbolic import poincare as poincare
from physnet.hyperbolic import polar as polar
from physnet.hyperbolic import tree as tree
from physnet.hyperbolic._frechet import frechet_mean as frechet_mean
from physnet.hyperbolic._kmeans import Clusters as Clusters
from physnet.hyperbolic._kmeans import kmeans as kmeans
