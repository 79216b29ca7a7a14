"""The two benchmarks of masks run, and what they compare is what they say."""

import functools
import json

import ensemble
import information_density
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import sparsity


@pytest.mark.slow
def test_sparsity_measures_every_rule(tmp_path, run_main):
    out = run_main(sparsity, "--quick", "--output", tmp_path / "r.json", pools=[ensemble])
    report = json.loads((tmp_path / "r.json").read_text())
    rows = {row["gate"]: row for row in report["with the resolvent mixer"]}
    assert len(rows) == 8
    assert rows["dense"]["kept_share"] == 1.0
    assert rows["dense"]["above_dense"] == 0.0
    for name, row in rows.items():
        assert np.isfinite(row["nats"])
        assert name in out
        if name != "antidiagonal blocks":  # as published it sees later queries
            assert row["leak"] == 0.0, name
    for name in ("sliding window", "scattering gate", "scattering gate, soft", "random tokens"):
        assert abs(rows[name]["kept_share"] - 0.4) < 0.06, name
    assert rows["learned L0 mask"]["extra_parameters"] == 2 * (16 + 1)
    assert rows["scattering gate"]["extra_parameters"] == 0  # its chains are the mixer's


@pytest.mark.slow
def test_information_density_gives_a_verdict(tmp_path, run_main):
    picture = tmp_path / "p.png"
    files = "--output", tmp_path / "r.json", "--picture", picture
    out = run_main(information_density, "--quick", *files, pools=[ensemble])
    report = json.loads((tmp_path / "r.json").read_text())
    for title in ("with the resolvent mixer", "attention alone"):
        found = report[title]
        assert found["verdict"] in out
        hidden = {row["hidden"]: row for row in found["hiding"]}
        assert hidden["none"]["above_whole"] == 0.0
        shares = [row["kept_share"] for name, row in hidden.items() if name != "none"]
        assert np.ptp(shares) < 1e-6  # exactly half at every place
        assert all(abs(row["mean"]) <= 1 for row in found["correlations"])
    assert picture.stat().st_size > 10_000


def test_the_scattering_row_is_bk_core():
    from ensemble import BKCoreConfig, Training, step
    from rules import SCATTERING, WINDOW
    from sparsity import Row, Section

    from physnet.models import bk_core

    config = BKCoreConfig(
        11, layers=2, heads=2, width=16, chains=4, mixer=False, density=0.5, local_window=3
    )
    section = Section(config, Training(), 1, (Row(WINDOW, 1.0), Row(SCATTERING, 0.5)))
    params = jax.tree.map(
        lambda leaf: jnp.stack([leaf, leaf]), jax.jit(section.init)(jax.random.key(0))
    )
    windows = jax.random.randint(jax.random.key(1), (3, 25), 0, 11)
    tokens, targets = windows[:, :-1], windows[:, 1:]
    params = jax.jit(section.calibrate)(params, windows)
    nats, share = jax.jit(section.evaluate)(params, windows)

    plain = jax.jit(functools.partial(bk_core.init, config))(jax.random.split(jax.random.key(0))[0])
    apply = jax.jit(functools.partial(bk_core.apply, config, return_info=True))
    logits, _ = apply(plain, tokens)
    np.testing.assert_allclose(nats[0], step.losses(logits, targets), atol=1e-5)
    calibrated = jax.jit(functools.partial(bk_core.calibrate, config))(plain, tokens)
    logits, info = apply(calibrated, tokens)
    np.testing.assert_allclose(nats[1], step.losses(logits, targets), atol=1e-5)
    np.testing.assert_allclose(share, [1.0, info["kept_pairs"]], atol=1e-6)
    assert 0.4 < float(share[1]) < 0.5
    own = plain["layers"]["mixer"]
    assert SCATTERING.parameters(config) == sum(leaf.size for leaf in jax.tree.leaves(own))


def test_antidiagonal_scores_against_loops_and_who_sees_later_queries():
    import rules
    from ensemble import BKCoreConfig, Context

    from physnet.nn.attention import Projected

    config = BKCoreConfig(7, layers=1, heads=2, width=8, chains=2)
    time, later = 64, 37
    draw = np.random.default_rng(0).normal
    parts = [draw(size=(1, time, 2, 4)).astype(np.float32) for _ in range(3)]

    def outranking(gate, parts):
        context = Context(jnp.zeros((1, time, 8)), Projected(*parts), None, jax.random.key(0))
        return np.asarray(gate.decide(config, {}, context, False))

    published, causal = rules.GATES[2:4]
    tiles, s = time // rules.STRIDE, rules.STRIDE
    query, key = (p[0, :, 1].astype(np.float64) for p in parts[:2])
    logits = np.full((tiles, tiles), -np.inf)
    for i in range(tiles):
        for j in range(i + 1):
            pairs = sum(query[i * s + s - 1 - k] @ key[j * s + k] for k in range(s))
            logits[i, j] = pairs / (2 * s)
    mass = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    mass = mass.reshape(4, 4, 4, 4).sum(3).mean(1)
    outranked = np.array([
        [mass[i, i] * (i != j) + sum(m for k, m in enumerate(mass[i]) if k != i and m > mass[i, j])
         for j in range(4)]
        for i in range(4)
    ])  # fmt: skip
    expected = np.where(np.eye(4), -1, outranked - rules.TIE_BREAK * mass)
    lower = np.tril_indices(4)
    found = outranking(published, parts)[0, 1]
    np.testing.assert_allclose(found[lower], expected[lower], atol=1e-6)

    changed = [p.copy() for p in parts]
    for p in changed:
        p[:, later:] = draw(size=p[:, later:].shape)
    row = later // rules.BLOCK  # its first queries lie in front of the changed tokens
    for gate, sees in ((published, True), (causal, False)):
        before, after = outranking(gate, parts)[..., row, :row], outranking(gate, changed)
        assert (before != after[..., row, :row]).any() == sees


def test_l0_shares_count_the_pairs_of_the_mask():
    import rules
    from ensemble import BKCoreConfig, Context

    config = BKCoreConfig(7, layers=1, heads=2, width=8, chains=2, local_window=3)
    h = jnp.asarray(np.random.default_rng(1).normal(size=(2, 20, 8)), jnp.float32)
    layer = {
        "gate": {"read": jnp.ones((8, 2)) * jnp.array([[1.0, -1.0]]), "bias": jnp.full((2,), -2.5)},
        "attention": {"threshold": jnp.zeros((2,))},
    }
    context = Context(h, None, None, jax.random.key(0))
    decision = rules.L0.decide(config, layer, context, False)
    bias = np.asarray(rules.L0.bias(config, layer, decision))
    _, certain = rules.l0_shares(config, decision.log_alpha)
    counted = np.isfinite(bias).sum() / (2 * 2 * 20 * 21 / 2)
    assert 0.3 < counted < 0.9
    np.testing.assert_allclose(certain, counted, rtol=1e-6)
    # The expected share is the mean over draws.
    drawn = [
        np.isfinite(rules.L0.bias(config, layer, rules.L0.decide(config, layer, c, True))).mean()
        for c in (context._replace(key=k) for k in jax.random.split(jax.random.key(1), 200))
    ]
    expected, _ = rules.l0_shares(config, decision.log_alpha)
    assert abs(np.mean(drawn) * 20 / 10.5 - float(expected)) < 0.01
