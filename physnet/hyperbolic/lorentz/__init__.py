"""The hyperboloid <x, x> = -1/c, x_0 > 0 in Minkowski space, of sectional curvature -c.

Points are (..., d + 1), the time first; <x, y> = -x_0 y_0 + sum_i x_i y_i. With r the radius,
x = (cosh r, sinh r u) / sqrt(c). A point is known by its space part: times that are handed in are
taken to agree with it and are not read, and so are the times of tangent vectors.
"""

from physnet.hyperbolic.lorentz._maps import distance as distance
from physnet.hyperbolic.lorentz._maps import expmap as expmap
from physnet.hyperbolic.lorentz._maps import expmap0 as expmap0
from physnet.hyperbolic.lorentz._maps import logmap as logmap
from physnet.hyperbolic.lorentz._maps import logmap0 as logmap0
from physnet.hyperbolic.lorentz._maps import midpoint as midpoint
from physnet.hyperbolic.lorentz._maps import transport as transport
from physnet.hyperbolic.lorentz._points import from_poincare as from_poincare
from physnet.hyperbolic.lorentz._points import from_tangent as from_tangent
from physnet.hyperbolic.lorentz._points import inner as inner
from physnet.hyperbolic.lorentz._points import project as project
from physnet.hyperbolic.lorentz._points import to_poincare as to_poincare
from physnet.hyperbolic.lorentz._points import to_tangent as to_tangent
