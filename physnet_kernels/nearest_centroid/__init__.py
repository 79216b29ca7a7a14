"""The nearest centroids of hyperbolic space, and the distances of all pairs."""
