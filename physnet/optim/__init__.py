"""Optimisers as optax transformations, each in the geometry that its parameters or model have.

Points of hyperbolic space: `riemannian_adam`, `riemannian_sgd`, and moving midpoints,
`ema_midpoint`. Matrices with orthonormal columns: `stiefel_adam`, `stiefel_sgd`, and orthogonal
ones, `orthogonal_retraction`, `polar_factor`. The metric of a model's distribution or quantum
state: `imaginary_time` (SR, minSR, SPRING) with the rows that make it, `wavefunction_rows`,
`likelihood_rows`, `categorical_rows`; and `fisher_adam` with a diagonal or Kronecker form of it.
Other sources of gradients: `path_integral_gradients` from losses alone, `teleported_lookahead`.
"""

from physnet.optim._adam import RiemannianAdamState as RiemannianAdamState
from physnet.optim._adam import riemannian_adam as riemannian_adam
from physnet.optim._ema import EmaMidpoint as EmaMidpoint
from physnet.optim._ema import EmaMidpointState as EmaMidpointState
from physnet.optim._ema import ema_midpoint as ema_midpoint
from physnet.optim._fisher import FisherAdamState as FisherAdamState
from physnet.optim._fisher import OuterScores as OuterScores
from physnet.optim._fisher import fisher_adam as fisher_adam
from physnet.optim._fisher import outer_scores as outer_scores
from physnet.optim._imaginary_time import ImaginaryTimeState as ImaginaryTimeState
from physnet.optim._imaginary_time import Products as Products
from physnet.optim._imaginary_time import Rows as Rows
from physnet.optim._imaginary_time import categorical_rows as categorical_rows
from physnet.optim._imaginary_time import imaginary_time as imaginary_time
from physnet.optim._imaginary_time import likelihood_rows as likelihood_rows
from physnet.optim._imaginary_time import local_energies as local_energies
from physnet.optim._imaginary_time import wavefunction_rows as wavefunction_rows
from physnet.optim._lookahead import TeleportedLookaheadState as TeleportedLookaheadState
from physnet.optim._lookahead import teleported_lookahead as teleported_lookahead
from physnet.optim._orthogonal import orthogonal_initializer as orthogonal_initializer
from physnet.optim._orthogonal import orthogonal_retraction as orthogonal_retraction
from physnet.optim._path_integral import PathIntegralGradientsState as PathIntegralGradientsState
from physnet.optim._path_integral import path_integral_gradients as path_integral_gradients
from physnet.optim._polar_factor import polar_factor as polar_factor
from physnet.optim._sgd import RiemannianSGDState as RiemannianSGDState
from physnet.optim._sgd import riemannian_sgd as riemannian_sgd
from physnet.optim._stiefel_adam import StiefelAdamState as StiefelAdamState
from physnet.optim._stiefel_adam import stiefel_adam as stiefel_adam
from physnet.optim._stiefel_sgd import StiefelSGDState as StiefelSGDState
from physnet.optim._stiefel_sgd import stiefel_sgd as stiefel_sgd
