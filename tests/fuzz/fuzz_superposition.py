"""Path integrals over particles, and distillation."""

import fuzz_arguments as fa
import jax
import jax.numpy as jnp
import numpy as np
import optax
from fuzz_greens import near
from fuzz_rules import Entry

from physnet.superposition import distill, path_integral


def sphere(w):
    return jnp.sum(w * w)


def cloud(rng, dims):
    return path_integral.init(jnp.ones(dims["d"], jnp.float32), particles=8, sigma=0.1)


def sums_to_one(found, /, losses=None, **_):
    p = np.asarray(getattr(found, "probability", found), np.float64)
    assert np.all(p >= 0)
    if np.isfinite(np.asarray(losses, np.float64)).any():
        near(p.sum(), 1.0, 2e-2)


def settled(params, **options):
    return path_integral.init(params, **options)


def evolve(key, solution, population_size):
    strategy = path_integral.Strategy(population_size, solution)
    state = strategy.init(key, solution, strategy.default_params)
    population, state = strategy.ask(key, state, strategy.default_params)
    fitness = jnp.sum(population**2, axis=1)
    state, _ = strategy.tell(key, population, fitness, state, strategy.default_params)
    return strategy.get_mean(state)


def sharded(key, state):
    mesh = jax.make_mesh((1,), ("k",), axis_types=(jax.sharding.AxisType.Auto,))
    step = jax.jit(path_integral.sharded_step(mesh, "k"), static_argnums=2)
    return step(key, state, sphere)


def perturbed(weight, left, right, x):
    return x @ path_integral.Perturbed(weight, left, right)


OPTIONS = {
    "particles": fa.size(8, 4, least=2, optional=True),
    "sigma": fa.number(0.1, 1.0, bad=(0.0, -1.0)),
    "temperature": fa.number(1.0, bad=(-1.0,), optional=True, nan="open"),
}
ENTRIES = {
    "path_integral.init": Entry(
        settled,
        {
            "params": fa.real("d", nan="open", dicts="open"),
            "effective": fa.number(
                0.5, bad=(0.0, -1.0, 1.5), optional=True, nan="raise", traced=False
            ),
            "covariance": fa.choice("none", "diagonal", "full", optional=True),
            "rank": fa.size(1, optional=True),
            "chunk": fa.size(4, optional=True),
        }
        | OPTIONS,
    ),
    "path_integral.step": Entry(
        lambda key, state: path_integral.step(key, state, sphere),
        {"key": fa.key(), "state": fa.tree(cloud)},
        dear=True,
    ),
    "path_integral.ask": Entry(
        path_integral.ask, {"key": fa.key(), "state": fa.tree(cloud)}, ("8 d real",)
    ),
    "path_integral.tell": Entry(
        path_integral.tell,
        {"key": fa.key(), "state": fa.tree(cloud), "losses": fa.real("8", nan="open")},
        dear=True,
    ),
    "path_integral.sharded_step": Entry(
        sharded, {"key": fa.key(), "state": fa.made(cloud, traced=True)}, dear=True
    ),
    "path_integral.defaults": Entry(
        path_integral.defaults, {"dimension": fa.size(10, 1000)}, host=True
    ),
    "path_integral.weights": Entry(
        path_integral.weights,
        {
            "losses": fa.real("n", nan="open"),
            "effective": fa.number(0.5, 0.3, bad=(0.0, -1.0, 1.5), nan="open"),
            "temperature": fa.number(1.0, bad=(-1.0,), optional=True, nan="open"),
        },
        ("n real", "real", "real", "n bool"),
        sums_to_one,
    ),
    "path_integral.gradient": Entry(
        lambda key, params, **options: path_integral.gradient(key, params, sphere, **options),
        {
            "key": fa.key(),
            "params": fa.real("d", nan="open", dicts="open"),
            "effective": fa.number(0.5, bad=(0.0, -1.0, 1.5), nan="raise", traced=False),
            "units": fa.choice("loss", "step"),
        }
        | OPTIONS
        | {"particles": fa.size(8, 4, least=2)},
        ("d real",),
        dear=True,
    ),
    "path_integral.Strategy": Entry(
        evolve,
        {
            "key": fa.key(),
            "solution": fa.real("d", nan="open", dicts="open"),
            "population_size": fa.size(8, least=2, optional=True),
        },
        names=("params", "particles"),
        dear=True,
    ),
    "path_integral.Perturbed": Entry(
        perturbed,
        {
            "weight": fa.fixed(np.ones((3, 2), np.float32)),
            "left": fa.fixed(np.ones((3, 1), np.float32)),
            "right": fa.fixed(np.ones((2, 1), np.float32)),
            "x": fa.fixed(np.ones((4, 3), np.float32)),
        },
        ("4 2 real",),
        lambda y, **_: near(y, np.full((4, 2), 6.0)),
        wide=True,
    ),
}


def distribution(log_p, /, **_):
    p = np.exp(np.asarray(log_p, np.float64))
    near(p.sum(-1), 1.0, 2e-2)


def not_negative(kl, /, **_):
    assert np.all(np.asarray(kl) >= 0)


def linear(params, x):
    return x @ params


def taught(state, inputs, targets, labels, mask, hard_weight, temperature):
    state, losses = distill.step(
        state,
        inputs,
        apply=linear,
        optimiser=optax.sgd(0.1),
        targets=targets,
        labels=labels,
        mask=mask,
        hard_weight=hard_weight,
        temperature=temperature,
    )
    return state.params, losses


def fitted(key, params, inputs, teachers, steps, batch_size, direction):
    return distill.fit(
        key,
        params,
        inputs,
        apply=linear,
        optimiser=optax.sgd(0.1),
        steps=steps,
        batch_size=batch_size,
        teachers=teachers,
        direction=direction,
    )


def log_probs(shape):
    def make(rng, dims):
        return jax.nn.log_softmax(
            jnp.asarray(rng.normal(size=fa.shape_of(shape, dims)), jnp.float32)
        )

    return fa.ArrayKind(make, True, dtype="real", nan="open")


WEIGHTS = fa.real("m", 0.1, 1.0, optional=True, zero="open", ints="open")
WARM = {"temperature": fa.number(1.0, 2.0, bad=(0.0, -1.0))}
STUDENT = {"student_logits": fa.real("b n"), "teacher_logits": fa.real("m b n"), "weights": WEIGHTS}
BATCH = {
    "labels": fa.ints("b", 0, 2, optional=True),
    "mask": fa.mask("b", optional=True),
    "hard_weight": fa.number(0.0, 0.5, bad=(-1.0, 1.5)),
} | WARM
ENTRIES |= {
    "distill.mixture_kl": Entry(distill.mixture_kl, STUDENT | WARM, ("b real",), not_negative),
    "distill.reverse_mixture_kl": Entry(
        distill.reverse_mixture_kl, STUDENT | WARM, ("b real",), not_negative
    ),
    "distill.mixture_log_probs": Entry(
        distill.mixture_log_probs,
        {"teacher_logits": fa.real("m b n"), "weights": WEIGHTS} | WARM,
        ("b n real",),
        distribution,
    ),
    "distill.ensemble_log_probs": Entry(
        distill.ensemble_log_probs,
        {
            "teachers": fa.real("m d n", alike=True, ints="open"),
            "inputs": fa.real("b d", alike=True, ints="open"),
            "apply": fa.function(linear),
            "weights": WEIGHTS,
            "chunk": fa.size(2, 1, optional=True),
        }
        | WARM,
        ("b n real",),
        distribution,
    ),
    "distill.objective": Entry(
        distill.objective,
        {"student_logits": fa.real("b n", nan="open"), "targets": log_probs("b n")}
        | BATCH
        | {"direction": fa.choice("forward", "reverse")},
        ("real",) * 3,
        dims={"n": (5, 2)},
    ),
    "distill.init": Entry(
        lambda params: distill.init(params, optimiser=optax.sgd(0.1)),
        {"params": fa.tree(lambda rng, dims: jnp.ones(3, jnp.float32), wrong="open")},
        wide=True,
    ),
    "distill.step": Entry(
        taught,
        {
            "state": fa.tree(
                lambda rng, dims: distill.init(
                    jnp.ones((dims["d"], dims["n"]), jnp.float32), optimiser=optax.sgd(0.1)
                )
            ),
            "inputs": fa.real("b d", alike=True, nan="open", ints="open"),
            "targets": log_probs("b n"),
        }
        | BATCH,
        dims={"n": (5, 2)},
        names=("student_logits",),
        dear=True,
        wide=True,
    ),
    "distill.fit": Entry(
        fitted,
        {
            "key": fa.key(),
            "params": fa.real("d n", alike=True, nan="open", ints="open"),
            "inputs": fa.real("T d", alike=True, nan="open", ints="open"),
            "teachers": fa.real("m d n", alike=True, nan="open", ints="open"),
            "steps": fa.size(2, 1),
            "batch_size": fa.size(2, 3),
            "direction": fa.choice("forward", "reverse"),
        },
        dims={"n": (5, 2)},
        names=("student_logits", "targets", "apply"),
        dear=True,
    ),
    "distill.boltzmann_weights": Entry(
        distill.boltzmann_weights,
        {
            "losses": fa.real("n", nan="open"),
            "inverse_temperature": fa.number(1.0, 0.0, bad=(-1.0,)),
        },
        ("n real",),
        sums_to_one,
    ),
    "distill.collapse": Entry(
        distill.collapse,
        {
            "particles": fa.real("m d"),
            "weights": WEIGHTS,
            "loss_fn": fa.function(sphere, optional=True),
            "points": fa.size(3, 1),
            "tolerance": fa.number(0.02, nan="open"),
            "chunk": fa.size(1, 2, optional=True),
        },
        dims={"m": (4, 2)},
        dear=True,
    ),
}
ENTRIES = {f"superposition.{name}": entry for name, entry in ENTRIES.items()}
HELD = {
    "path_integral.State": "init",
    "path_integral.Info": "step",
    "path_integral.Weights": "weights",
    "path_integral.StrategyParams": "Strategy",
    "path_integral.StrategyState": "Strategy",
    "distill.State": "init",
    "distill.Losses": "objective",
    "distill.Collapse": "collapse",
}
REASONS = {f"superposition.{name}": f"holds what `{maker}` returns" for name, maker in HELD.items()}
