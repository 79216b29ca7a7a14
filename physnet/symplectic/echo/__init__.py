"""Gradients by echoes: flip the momenta, run the same system again, read the gradient off it."""

from physnet.symplectic.echo._conservative import check_conservative as check_conservative
from physnet.symplectic.echo._exact import gradient as gradient
from physnet.symplectic.echo._finite import finite_gradient as finite_gradient
