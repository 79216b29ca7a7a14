# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # Many networks at once: path integrals, ensembles, distillation
#
# **Question.** `vmap` trains eight networks as easily as one. What can such a cloud do that one
# network cannot, and what may one do with it afterwards: average the weights, or the answers?

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from physnet.superposition import distill, path_integral


def moons(key, count):
    """Two half circles that reach into each other, with noise."""
    turn, noise, side = jax.random.split(key, 3)
    angle = jnp.pi * jax.random.uniform(turn, (count,))
    label = jax.random.bernoulli(side, 0.5, (count,)).astype(jnp.int32)
    up = jnp.stack([jnp.cos(angle), jnp.sin(angle)], axis=1)
    x = jnp.where(label[:, None] == 0, up, jnp.array([1.0, 0.5]) - up)
    return x + 0.25 * jax.random.normal(noise, x.shape), label


def init(key, width=24):
    a, b, c = jax.random.split(key, 3)
    return {
        "in": jax.random.normal(a, (2, width)),
        "bias": jax.random.normal(c, (width,)),
        "out": 0.3 * jax.random.normal(b, (width, 2)),
    }


def apply(params, x):
    return jax.nn.relu(x @ params["in"] + params["bias"]) @ params["out"]


x, label = moons(jax.random.key(0), 60)
held, truth = moons(jax.random.key(1), 2000)
more, _ = moons(jax.random.key(2), 600)  # inputs without labels

# %% [markdown]
# ## Weights from losses alone
# A path integral draws $K$ particles around the weights, evaluates each one's loss and moves to
# $\sum_k P_k W_k$ with $P_k \propto e^{-\lambda L_k}$. No gradient, so the loss may be anything:
# here the number of mistakes itself, which is flat almost everywhere.


# %%
def mistakes(params):
    return jnp.mean((jnp.argmax(apply(params, x), 1) != label).astype(jnp.float32))


state = path_integral.init(init(jax.random.key(3)), particles=64, sigma=0.2)
_, curve = jax.lax.scan(
    lambda state, key: (
        (new := path_integral.step(key, state, mistakes)[0]), mistakes(new.params)),
    state, jax.random.split(jax.random.key(4), 150),
)  # fmt: skip
slope = optax.global_norm(jax.grad(mistakes)(state.params))
print(f"mistakes on the sample: {mistakes(state.params):.0%} -> {curve[-1]:.0%}; gradient: {slope}")

# %% [markdown]
# ## Eight networks, and their one student
# Eight networks are trained by one program. What they say together is distilled into one network
# of the same size, on the labelled inputs and on more inputs without labels.

# %%
options = {"apply": apply, "optimiser": optax.adam(3e-3), "steps": 1500, "batch_size": 60}


@jax.jit
def teachers_of(keys):
    def one(key):
        hard = {"labels": label, "hard_weight": 1.0}
        return distill.fit(key, init(key), x, **hard, **options)[0]

    return jax.vmap(one)(keys)


@jax.jit
def student_of(key, teachers):
    inputs = jnp.concatenate([x, more])
    targets = distill.ensemble_log_probs(teachers, inputs, apply=apply)
    return distill.fit(key, init(key), inputs, targets=targets, **options)[0]


teachers = teachers_of(jax.random.split(jax.random.key(5), 8))
student = student_of(jax.random.key(6), teachers)
mean = distill.collapse(teachers)


def score(log_probs):
    nats = -jnp.mean(jnp.take_along_axis(log_probs, truth[:, None], 1))
    return f"{jnp.mean(jnp.argmax(log_probs, 1) == truth):.1%} right, {nats:.3f} nats"


def says(params, inputs):
    return jax.nn.log_softmax(apply(params, inputs))


one = jax.tree.map(lambda w: w[0], teachers)
answers = {
    "one network": lambda inputs: says(one, inputs),
    "eight together": lambda inputs: distill.ensemble_log_probs(teachers, inputs, apply=apply),
    "their student": lambda inputs: says(student, inputs),
    "mean of the weights": lambda inputs: says(mean.params, inputs),
}
for name, answer in answers.items():
    print(f"{name:20} {score(answer(held))}")

# %%
side = np.linspace(-2, 3, 120), np.linspace(-1.6, 2.1, 120)
grid = jnp.asarray(np.stack(np.meshgrid(*side), -1).reshape(-1, 2), jnp.float32)
figure, axes = plt.subplots(1, 4, figsize=(13, 3), layout="constrained", sharey=True)
for axis, (name, answer) in zip(axes, answers.items(), strict=True):
    chance = np.exp(np.asarray(answer(grid)))[:, 1].reshape(120, 120)
    axis.contourf(*side, chance, levels=np.linspace(0, 1, 21), cmap="RdBu_r")
    axis.scatter(*np.asarray(x).T, c=np.asarray(label), cmap="RdBu_r", ec="k", s=14, lw=0.5)
    axis.set(title=name, xticks=[], yticks=[])
plt.show()

# %% [markdown]
# ## The honest limit
# The mean of the weights is meaningless for networks that were trained apart (their `spread` is
# near 1; `collapse` with a loss function measures the barrier between them); it means something
# for the particles of one cloud. The direction matters: KL(mixture || student), `mixture_kl`, was
# better than or equal to the other direction, KL(student || mixture), in all that was measured
# (`benchmarks/distillation.py`). And on networks Adam needs fewer evaluations than a cloud does, 2
# to 30 times; on functions with many small minima the cloud finds what Adam does not
# (`examples/basins.py`).
