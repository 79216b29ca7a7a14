"""A named implementation runs or raises; None runs the fastest there is."""

import functools
import inspect

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from physnet import _dispatch, attention, birman_schwinger, greens, scattering

MECHANISMS = (attention, birman_schwinger, greens, scattering)
NAMES = ("xla", "mosaic_gpu", "triton", "cuda")


def _arguments():
    """Arguments with which each function that takes `implementation` runs."""
    onsite, hopping = jnp.array([0.3, -0.2, 0.5, 0.1]), jnp.array([1.0, 0.7, 0.9])
    chain = (onsite, hopping, 0.2 + 0.1j)
    x = jnp.linspace(-1.0, 1.0, 1 * 8 * 2 * 4).reshape(1, 8, 2, 4)
    return {
        "greens.diagonal": (chain, {}),
        "greens.left": (chain, {}),
        "greens.window": ((onsite, hopping), {"center": 0.0, "radius": 1.0}),
        "greens.propagate": ((*chain, jnp.ones((4, 2))), {}),
        "attention.scattering_attention": (
            (x, x, x, jnp.linspace(0.0, 1.0, 8)[None]),
            {"threshold": 0.3},
        ),
        "attention.block_sparse_attention": ((x, x, x, jnp.ones((2, 2), bool)), {}),
    }


def _dispatched():
    """Every public function that takes `implementation`."""
    return {
        f"{module.__name__.removeprefix('physnet.')}.{name}": function
        for module in MECHANISMS
        for name, function in inspect.getmembers(module, inspect.isfunction)
        if not name.startswith("_") and "implementation" in inspect.signature(function).parameters
    }


FUNCTIONS = _dispatched()
operations = pytest.mark.parametrize("operation", sorted(FUNCTIONS))


def test_table_and_cases_cover_every_function_that_dispatches():
    assert set(FUNCTIONS) == set(_dispatch._AVAILABLE) == set(_arguments())


@operations
def test_signature(operation):
    parameter = inspect.signature(FUNCTIONS[operation]).parameters["implementation"]
    assert parameter.kind is parameter.KEYWORD_ONLY
    assert parameter.default is None
    assert "xla" in _dispatch._AVAILABLE[operation]


@operations
def test_a_name_that_is_not_there_raises_and_says_what_is(operation, bare_errors):
    arguments, options = _arguments()[operation]
    available = _dispatch._AVAILABLE[operation]
    missing = [name for name in NAMES if name not in available]
    assert "cuda" in missing
    for name in missing:
        call = functools.partial(FUNCTIONS[operation], **options, implementation=name)
        for run in (call, functools.partial(jax.eval_shape, call)):
            with pytest.raises(NotImplementedError) as raised:
                run(*arguments)
            for word in (operation, repr(name), *map(repr, available)):
                assert word in str(raised.value)


@operations
def test_none_agrees_with_the_reference(operation):
    arguments, options = _arguments()[operation]
    call = functools.partial(FUNCTIONS[operation], *arguments, **options)
    chosen, reference = call(implementation=None), call(implementation="xla")
    np.testing.assert_allclose(chosen, reference, rtol=1e-5)
    assert np.abs(reference).max() > 0.01
