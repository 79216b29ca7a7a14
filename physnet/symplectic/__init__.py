"""Time reversal: leapfrog trajectories, bit-exact lattice states, gradients in O(1) memory."""

from physnet.symplectic import echo as echo
from physnet.symplectic._coupled import coupled_scan as coupled_scan
from physnet.symplectic._info import Info as Info
from physnet.symplectic._info import check as check
from physnet.symplectic._lattice import Lattice as Lattice
from physnet.symplectic._lattice import LatticeState as LatticeState
from physnet.symplectic._leapfrog import energy as energy
from physnet.symplectic._leapfrog import leapfrog as leapfrog
from physnet.symplectic._reversible import inverse as inverse
from physnet.symplectic._reversible import reversible_scan as reversible_scan
