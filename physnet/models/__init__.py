"""Whole sequence models as pure functions.

Each module holds a frozen config, `init(config, key) -> params` and
`apply(config, params, tokens) -> logits`.
"""
