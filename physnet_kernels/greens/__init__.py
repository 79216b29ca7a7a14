"""Kernels of the recursions along chains: continued fractions, linear recurrences, waves."""
