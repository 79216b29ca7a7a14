"""The nearest centroids of hyperbolic space."""
