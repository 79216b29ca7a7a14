"""Distillation: an ensemble of teachers into one student, and what a mean of weights is worth."""

from physnet.superposition.distill._collapse import Collapse as Collapse
from physnet.superposition.distill._collapse import boltzmann_weights as boltzmann_weights
from physnet.superposition.distill._collapse import collapse as collapse
from physnet.superposition.distill._divergence import mixture_kl as mixture_kl
from physnet.superposition.distill._divergence import reverse_mixture_kl as reverse_mixture_kl
from physnet.superposition.distill._loop import State as State
from physnet.superposition.distill._loop import fit as fit
from physnet.superposition.distill._loop import init as init
from physnet.superposition.distill._loop import step as step
from physnet.superposition.distill._mixture import mixture_log_probs as mixture_log_probs
from physnet.superposition.distill._objective import Losses as Losses
from physnet.superposition.distill._objective import objective as objective
from physnet.superposition.distill._teachers import ensemble_log_probs as ensemble_log_probs
