"""Exact Green's functions G(z) = (z - H)^{-1} of tridiagonal Hermitian chains, in O(n)."""

from physnet.greens._dense import resolvent as resolvent
from physnet.greens._diagonal import diagonal as diagonal
from physnet.greens._diagonal import ldos as ldos
from physnet.greens._diagonal import left as left
from physnet.greens._lanczos import lanczos as lanczos
from physnet.greens._lanczos import ldos_lanczos as ldos_lanczos
from physnet.greens._propagate import PropagateState as PropagateState
from physnet.greens._propagate import propagate as propagate
from physnet.greens._propagate import solve as solve
from physnet.greens._recurrence import recurrence as recurrence
from physnet.greens._window import window as window
