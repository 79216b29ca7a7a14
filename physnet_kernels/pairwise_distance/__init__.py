"""The hyperbolic distances of all pairs of two sets of points."""
