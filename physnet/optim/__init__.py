"""Optimisers for points of hyperbolic space, as optax transformations, and moving midpoints."""

from physnet.optim._adam import RiemannianAdamState as RiemannianAdamState
from physnet.optim._adam import riemannian_adam as riemannian_adam
from physnet.optim._ema import EmaMidpoint as EmaMidpoint
from physnet.optim._ema import EmaMidpointState as EmaMidpointState
from physnet.optim._ema import ema_midpoint as ema_midpoint
from physnet.optim._sgd import RiemannianSGDState as RiemannianSGDState
from physnet.optim._sgd import riemannian_sgd as riemannian_sgd
