"""Adam in the metric of the Fisher information, and the scores that shape it."""

from physnet.optim._fisher._metric import OuterScores as OuterScores
from physnet.optim._fisher._scores import outer_scores as outer_scores
from physnet.optim._fisher._transform import FisherAdamState as FisherAdamState
from physnet.optim._fisher._transform import fisher_adam as fisher_adam
