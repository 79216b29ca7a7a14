"""Optimisers for points of hyperbolic space, as optax transformations, and moving midpoints."""

from physnet.optim._adam import RiemannianAdamState as RiemannianAdamState
from physnet.optim._adam import riemannian_adam as riemannian_adam
from physnet.optim._ema import EmaMidpoint as EmaMidpoint
from physnet.optim._ema import EmaMidpointState as EmaMidpointState
from physnet.optim._ema import ema_midpoint as ema_midpoint
from physnet.optim._lookahead import TeleportedLookaheadState as TeleportedLookaheadState
from physnet.optim._lookahead import teleported_lookahead as teleported_lookahead
from physnet.optim._orthogonal import orthogonal_initializer as orthogonal_initializer
from physnet.optim._orthogonal import orthogonal_retraction as orthogonal_retraction
from physnet.optim._polar_factor import polar_factor as polar_factor
from physnet.optim._sgd import RiemannianSGDState as RiemannianSGDState
from physnet.optim._sgd import riemannian_sgd as riemannian_sgd
from physnet.optim._stiefel_adam import StiefelAdamState as StiefelAdamState
from physnet.optim._stiefel_adam import stiefel_adam as stiefel_adam
from physnet.optim._stiefel_sgd import StiefelSGDState as StiefelSGDState
from physnet.optim._stiefel_sgd import stiefel_sgd as stiefel_sgd
