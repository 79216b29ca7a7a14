"""Minimising functions by their values alone: problems, methods, expected running times."""
