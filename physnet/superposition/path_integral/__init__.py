"""Path integrals over parameters: clouds of particles weighted by exp(-lambda L)."""

from physnet.superposition.path_integral._defaults import defaults as defaults
from physnet.superposition.path_integral._gradient import gradient as gradient
from physnet.superposition.path_integral._perturbed import Perturbed as Perturbed
from physnet.superposition.path_integral._sharded import sharded_step as sharded_step
from physnet.superposition.path_integral._state import Info as Info
from physnet.superposition.path_integral._state import State as State
from physnet.superposition.path_integral._state import init as init
from physnet.superposition.path_integral._step import ask as ask
from physnet.superposition.path_integral._step import step as step
from physnet.superposition.path_integral._step import tell as tell
from physnet.superposition.path_integral._strategy import Strategy as Strategy
from physnet.superposition.path_integral._strategy import StrategyParams as StrategyParams
from physnet.superposition.path_integral._strategy import StrategyState as StrategyState
from physnet.superposition.path_integral._temperature import Weights as Weights
from physnet.superposition.path_integral._temperature import weights as weights
