"""Layers as pure functions over parameter dicts (`mixer`, `attention`), and thin NNX shells."""
