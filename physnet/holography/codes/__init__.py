"""Holographic codes of perfect tensors: geometry, stabilisers, erasures, states."""

from physnet.holography.codes._decoders import recoverable as recoverable
from physnet.holography.codes._monte_carlo import Threshold as Threshold
from physnet.holography.codes._monte_carlo import erasure_recovery as erasure_recovery
from physnet.holography.codes._monte_carlo import erasure_threshold as erasure_threshold
from physnet.holography.codes._monte_carlo import erasure_tolerance as erasure_tolerance
from physnet.holography.codes._perfect import Pauli as Pauli
from physnet.holography.codes._perfect import perfect_tensor as perfect_tensor
from physnet.holography.codes._stabilisers import Stabilisers as Stabilisers
from physnet.holography.codes._stabilisers import stabilisers as stabilisers
from physnet.holography.codes._states import decode as decode
from physnet.holography.codes._states import encode as encode
from physnet.holography.codes._states import logical_operators as logical_operators
from physnet.holography.codes._tiling import Code as Code
from physnet.holography.codes._tiling import happy_code as happy_code
