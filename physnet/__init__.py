"""physnet: a sequence model treated as a quantum many-body system, in pure JAX functions.

Convention: G(z) = (z - H)^{-1} with H tridiagonal and Hermitian, Im z > 0.
"""

__version__ = "0.1.0"
