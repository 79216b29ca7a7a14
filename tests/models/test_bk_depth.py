"""BK-Core with gradients that jump over blocks, probes of its blocks, and the isometry penalty."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from bk_models import CONFIG, VARIANTS, apply, init, lively, tokens

from physnet import teleport
from physnet.models import bk_core
from physnet.models._tokens import embed
from physnet.models.bk_core import _block, _depth, _model
from physnet.nn.layers import dropout

STRENGTH = 0.3
KEY = jax.random.key(5)
MIXER = dataclasses.replace(CONFIG, attention=False)
JUMPING = {
    "dyson": dataclasses.replace(CONFIG, dropout=0.2, teleport=STRENGTH),
    "chain": dataclasses.replace(MIXER, teleport=STRENGTH, teleport_mode="chain"),
    "gated": dataclasses.replace(CONFIG, mixer=False, teleport=STRENGTH, teleport_mode="gated"),
    "experts": dataclasses.replace(VARIANTS["experts"], teleport=STRENGTH),
}
ONES = jnp.ones(CONFIG.layers, jnp.float32)
WEIGHT = jnp.asarray(np.random.default_rng(1).normal(size=(2, 12, 11)), jnp.float32)


def without(config):
    return dataclasses.replace(config, teleport=0.0, teleport_mode="dyson", dropout=0.0)


def measure(logits):
    return jnp.sum(WEIGHT * jnp.tanh(logits))


def loss(config, params, **options):
    return measure(bk_core.apply(config, params, tokens(), **options))


@functools.cache
def jumping(config):
    """(loss, (logits, reports)) and the gradient, compiled."""

    def run(params, rows):
        logits, info = bk_core.apply(config, params, rows, key=KEY, return_info=True)
        return measure(logits), (logits, info)

    return jax.jit(jax.value_and_grad(run, has_aux=True))


@functools.cache
def written_out(config):
    """The same with the sums over later blocks written out, block by block, O(L^2), compiled."""
    drop = dropout(config.dropout, KEY)

    def block(index, layer, x):
        own = _block.at(drop, _block.SITES * index)
        x, *reports = _block.block(config, layer, x, own, None)
        return x, reports

    def readout(rest, x):
        logits = _model.readout(rest, x)
        return measure(logits), logits

    @jax.jit
    def run(params, rho, strength):
        x, pull = jax.vjp(lambda table: embed(table, tokens(), jnp.float32), params["token"])
        pulls, reports = [], []
        for index in range(config.layers):
            layer = _block.layer_params(params, index)
            x, back, reported = jax.vjp(functools.partial(block, index), layer, x, has_aux=True)
            pulls.append(back)
            reports.append(reported)
        last = jax.value_and_grad(readout, (0, 1), has_aux=True)
        (value, logits), (rest, delta) = last(params, x)
        chain, total = {config.layers: delta}, {config.layers: delta}
        layers = [None] * config.layers
        for l in reversed(range(config.layers)):
            chain[l] = pulls[l](chain[l + 1])[1]
            layers[l], straight = pulls[l](total[l + 1])
            first_order = config.teleport_mode == "chain"
            summed = chain if first_order else total
            total[l] = chain[l] if first_order else straight
            own = strength
            if config.teleport_mode == "gated":
                own = jnp.where(abs(rho[l]) >= 0.5, strength, 0)
            for k in range(l + 1, config.layers + 1):
                total[l] += own * jnp.prod(rho[l:k]) * summed[k]
        rest["layers"] = jax.tree.map(lambda *leaves: jnp.stack(leaves), *layers)
        rest["token"] += pull(total[0])[0]
        return (value, (logits, reports)), rest

    return lambda params, rho=ONES, strength=STRENGTH: run(params, rho, jnp.float32(strength))


def close(one, other, share):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(a, b, atol=share * max(float(np.abs(b).max()), 1e-3))


@functools.cache
def measured(config):
    return jax.jit(lambda p, rows: _depth._rho(config, p, embed(p["token"], rows, jnp.float32)))


def damped(params):
    """With a first block whose feed-forward takes away about all of a change: -3 relu(x)^2 / 4."""
    eye = 0.5 * np.eye(16, 40, dtype=np.float32)
    down, up = (np.array(params["layers"]["mlp"][name]) for name in ("down", "up"))
    up[0], down[0] = eye, -3 * eye.T
    mlp = {"up": jnp.asarray(up), "down": jnp.asarray(down)}
    return params | {"layers": params["layers"] | {"mlp": mlp}}


@pytest.mark.parametrize(
    "name", ["dyson", *(pytest.param(name, marks=pytest.mark.slow) for name in list(JUMPING)[1:])]
)
def test_gradients_are_the_sums_written_out_and_values_those_of_block_after_block(name):
    config, rho = JUMPING[name], ONES
    params = lively(without(config))
    if name == "gated":
        params = damped(params)
        rho = measured(config)(params, tokens())
        one, other = np.abs(rho)
        assert one < 0.5 <= other  # no jump arrives at the first block's input
    (value, (logits, info)), gradient = jumping(config)(params, tokens())
    (expected, (plain, reports)), summed = written_out(config)(params, rho)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(logits, plain, atol=1e-5 * float(np.abs(plain).max()))
    close(gradient, summed, 1e-4)
    for place, found in enumerate(("score", "expert")):
        if found in info:
            close(list(info[found]), [reported[place] for reported in reports], 1e-5)
    assert ("score" in info) == config.attention
    assert ("expert" in info) == bool(config.experts)


def test_values_are_those_of_the_plain_model():
    params = lively(CONFIG)
    run = jax.jit(functools.partial(bk_core.apply, CONFIG, return_info=True))
    plain = run(params, tokens())
    # An array is a strength that may change: the program jumps, by nothing here.
    jumps = apply(CONFIG, params, tokens(), return_info=True, teleport=jnp.zeros(2))
    close(jumps, plain, 1e-5)


def test_no_logit_depends_on_a_later_token():
    params = lively(CONFIG)
    run = lambda rows: jumping(JUMPING["dyson"])(params, rows)[0][1][0]  # noqa: E731
    changed = np.array(tokens())
    changed[:, 6] = (changed[:, 6] + 1) % 11
    before, after = np.asarray(run(tokens())), np.asarray(run(changed))
    np.testing.assert_array_equal(after[:, :6], before[:, :6])
    assert not np.array_equal(after[:, 6], before[:, 6])


def program(function, *arguments):
    """Of its derivative, without the addresses of Python's objects."""
    return re.sub(r"0x[0-9a-f]+", "", str(jax.make_jaxpr(jax.grad(function))(*arguments)))


def test_without_a_strength_it_is_the_plain_program():
    """Attention forms all pairs here, and has no derivative rule: what has one, jumps."""
    params = jax.eval_shape(lambda: init(CONFIG))
    on = dataclasses.replace(CONFIG, teleport=0.1)
    plain = program(functools.partial(loss, CONFIG), params)
    assert "custom_vjp" not in plain
    assert program(functools.partial(loss, on, teleport=0.0), params) == plain
    mode = dataclasses.replace(CONFIG, teleport_mode="gated")
    assert program(functools.partial(loss, mode), params) == plain
    assert program(functools.partial(loss, on), params) != plain
    decode = lambda config: str(  # noqa: E731
        jax.make_jaxpr(lambda p, cache: bk_core.extend(config, p, tokens(), cache))(
            params, bk_core.init_cache(config, 2, 12)
        )
    )
    assert re.sub("0x[0-9a-f]+", "", decode(on)) == re.sub("0x[0-9a-f]+", "", decode(CONFIG))


def test_a_traced_strength_splits_the_gradient():
    config = JUMPING["chain"]
    params = lively(without(config))

    @jax.jit
    def parts(params, strength):
        split = functools.partial(loss, config)
        return teleport.gradients(lambda p, s: split(p, teleport=s), params, strength=strength)

    local, jumped = parts(params, jnp.float32(STRENGTH))
    close(local, written_out(config)(params, strength=0.0)[1], 1e-4)
    local, jumped = jax.tree.map(np.asarray, (local, jumped))
    close(jax.tree.map(np.add, local, jumped), written_out(config)(params)[1], 1e-4)
    assert float(np.abs(jumped["token"]).max()) > 0.01


@pytest.mark.slow
def test_bfloat16_and_an_ensemble():
    config = JUMPING["chain"]
    members = [lively(without(config)), init(config, 1)]
    both = jax.tree.map(lambda *leaves: np.stack(leaves), *members)
    low = functools.partial(loss, config, dtype=jnp.bfloat16)
    together = jax.jit(jax.vmap(jax.grad(low)))(both)
    for index, own in enumerate(members):
        exact = written_out(config)(own)[1]
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(exact), strict=True):
            assert a.dtype == jnp.float32
            apart = np.linalg.norm(np.asarray(a)[index] - b) / (np.linalg.norm(b) + 1e-3)
            assert apart < 0.2


PIECES = tokens(2, 4)


@functools.cache
def jacobians():
    """Those of the blocks at the streams of PIECES: (B, L, d, d), d = 64."""
    params = lively(CONFIG)
    silent = dropout(0.0, None)

    def step(x, layer):
        one = lambda x: _block.block(CONFIG, layer, x[None], silent, None).x[0]  # noqa: E731
        return one(x), jax.jacrev(one)(x).reshape(x.size, x.size)

    @jax.jit
    def run(params):
        x = embed(params["token"], PIECES, jnp.float32)
        return jax.vmap(lambda x: jax.lax.scan(step, x, params["layers"])[1])(x)

    return params, np.asarray(run(params), np.float64)


@pytest.mark.slow
def test_probes_find_the_traces_of_dense_jacobians():
    params, jacobian = jacobians()
    d = jacobian.shape[-1]
    run = jax.jit(lambda p: bk_core.probe_layers(CONFIG, p, PIECES, key=KEY, probes=256))
    probes = jax.tree.map(np.asarray, run(params))
    assert probes.rho.shape == (2, 2)
    rho = np.trace(jacobian, axis1=-2, axis2=-1) / d
    chi = np.square(jacobian).sum((-2, -1)) / d
    assert (np.abs(probes.rho - rho) < 4 * probes.rho_error).all()
    assert (np.abs(probes.chi - chi) < 4 * probes.chi_error).all()
    found = measured(CONFIG)(params, PIECES)
    spread = 4 * probes.rho_error[0] * (256 / 2) ** 0.5
    assert (np.abs(np.asarray(found) - rho[0]) < spread).all()


@pytest.mark.slow
def test_the_isometry_penalty_is_unbiased_and_differentiable():
    params, jacobian = jacobians()
    d = jacobian.shape[-1]
    excess = np.swapaxes(jacobian, -1, -2) @ jacobian - np.eye(d)
    exact = np.square(excess).sum((-2, -1)) / d
    exact += np.square(np.trace(excess, axis1=-2, axis2=-1)) / (2 * d)

    def penalty(params, key):
        return bk_core.isometry_penalty(CONFIG, params, PIECES, key=key, probes=16)

    keys = jax.random.split(KEY, 256)
    samples = np.asarray(jax.jit(jax.vmap(penalty, (None, 0)))(params, keys), np.float64)
    assert samples.min() > 0
    error = samples.std(ddof=1) / len(samples) ** 0.5
    assert error < 0.05 * exact.mean()
    assert abs(samples.mean() - exact.mean()) < 4 * error

    derivative = jax.jit(jax.value_and_grad(penalty))
    params, gradient = jax.tree.map(np.asarray, (params, derivative(params, KEY)[1]))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradient))
    size = np.float32(sum(float(np.vdot(leaf, leaf)) for leaf in jax.tree.leaves(gradient)) ** 0.5)
    step = np.float32(1e-3)
    ends = [
        float(
            derivative(jax.tree.map(lambda p, g, s=s: p + s * g / size, params, gradient), KEY)[0]
        )
        for s in (step, -step)
    ]
    assert (ends[0] - ends[1]) / (2 * step) == pytest.approx(size, rel=0.02)


def test_long_pieces_are_named_where_attention_has_no_second_order(bare_errors):
    key = jax.random.key(0)
    params = jax.eval_shape(lambda: init(CONFIG))
    for function in (bk_core.isometry_penalty, bk_core.probe_layers):
        with pytest.raises(ValueError, match=r"tokens must have at most 256 positions.*got 257"):
            function(CONFIG, params, tokens(1, 257), key=key)
    mixer = VARIANTS["mixer"]
    params = jax.eval_shape(lambda: init(mixer))
    found = jax.eval_shape(
        lambda p: jax.grad(lambda p: bk_core.isometry_penalty(mixer, p, tokens(1, 257), key=key))(
            p
        ),
        params,
    )
    assert jax.tree.structure(found) == jax.tree.structure(params)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"teleport": -0.1}, "teleport must be a finite number >= 0, got -0.1"),
        ({"teleport": float("nan")}, "teleport must be a finite number >= 0, got nan"),
        ({"teleport_mode": "ghost"}, "teleport_mode must be one of .*'gated'.*, got 'ghost'"),
    ],
)
def test_a_bad_config_is_named(change, message, bare_errors):
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(CONFIG, **change)
