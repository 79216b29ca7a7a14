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
# # Hyperbolic experts: who takes which word?
#
# **Question.** A hierarchy fits the Poincare disk, whose room grows exponentially outwards. If
# experts are points of the disk and every word goes to the nearest, with no router to train, do
# they divide the words sensibly?
#
# The words are mammals as WordNet orders them, a small part of its tree.

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np
import optax

from physnet import moe, optim
from physnet.hyperbolic import poincare

TREE = {
    "mammal": "carnivore ungulate primate rodent bat",
    "carnivore": "canine feline bear",
    "canine": "dog wolf fox jackal",
    "feline": "cat lion tiger cheetah",
    "bear": "brown_bear ice_bear",
    "ungulate": "equine deer swine",
    "equine": "horse zebra mule",
    "deer": "elk moose reindeer",
    "swine": "hog wild_boar warthog",
    "primate": "ape monkey lemur",
    "ape": "gorilla chimpanzee orangutan",
    "monkey": "baboon macaque marmoset",
    "rodent": "mouse rat squirrel",
    "squirrel": "chipmunk marmot",
    "bat": "fruit_bat vampire_bat",
}
parent = {child: top for top, children in TREE.items() for child in children.split()}
names = ["mammal", *parent]
number = {name: index for index, name in enumerate(names)}


def above(name):
    return [] if name not in parent else [parent[name], *above(parent[name])]


pairs = jnp.array([[number[n], number[a]] for n in names for a in above(n)])
related = np.eye(len(names), dtype=bool)
for n, a in np.asarray(pairs):
    related[n, a] = True
print(f"{len(names)} words, {len(pairs)} pairs of a word and one above it")

# %% [markdown]
# Ancestors must be nearer than words that are none: a softmax over distances, and Riemannian Adam
# on the points of the disk.


# %%
def loss(points):
    distance = poincare.distance(points[pairs[:, 0], None], points[None])
    others = jnp.where(jnp.asarray(related)[pairs[:, 0]], jnp.inf, distance)
    own = jnp.take_along_axis(distance, pairs[:, 1:], axis=1)[:, 0]
    return jnp.mean(own + jax.nn.logsumexp(jnp.append(-others, -own[:, None], axis=1), axis=1))


optimiser = optim.riemannian_adam(optax.warmup_cosine_decay_schedule(1e-3, 0.02, 1000, 3000))


@jax.jit
def train(points):
    def one(carry, _):
        points, state = carry
        value, slope = jax.value_and_grad(loss)(points)
        updates, state = optimiser.update(slope, state, points)
        return (optax.apply_updates(points, updates), state), value

    return jax.lax.scan(one, (points, optimiser.init(points)), length=3000)


start = 1e-2 * jax.random.normal(jax.random.key(0), (len(names), 2))
(points, _), curve = train(start)
distance = np.asarray(poincare.distance(points[:, None], points[None]))
ranks = [
    1 + np.sum(distance[n][~related[n]] < distance[n, a]) for n, a in np.asarray(pairs)
]  # fmt: skip
print(
    f"loss {curve[0]:.2f} -> {curve[-1]:.2f}; mean rank of ancestors {np.mean(ranks):.2f} (best: 1)"
)

# %% [markdown]
# Experts sit at five words, and each word goes to the nearest: `moe.route` on tangent coordinates
# at the origin. Every route comes with a certificate that no other centroid is nearer. (The
# picture shows hyperbolic distances from the origin as they are: in the disk itself nearly all
# words lie within a hundredth of the rim.)

# %%
experts = ["carnivore", "ungulate", "primate", "rodent", "bat"]
tangent = poincare.logmap0(points)
routing = moe.route(tangent, tangent[jnp.array([number[e] for e in experts])])
chosen = np.asarray(routing.expert)[:, 0]
colours = ["#d1495b", "#c98a1b", "#6a4c93", "#1f6f8b", "#3c3c3c"]

figure, axis = plt.subplots(figsize=(7, 7), layout="constrained")
radius = poincare.distance(points, jnp.zeros(2))[:, None]  # drawn as it is, not as |x| < 1
xy = np.asarray(radius * points / jnp.linalg.norm(points, axis=1, keepdims=True))
for child, top in parent.items():
    axis.plot(*xy[[number[child], number[top]]].T, color="0.85", lw=0.8, zorder=0)
for name, (x, y), expert in zip(names, xy, chosen, strict=True):
    axis.plot(x, y, "o", color=colours[expert], ms=8 if name in experts else 4)
    axis.annotate(name, (x, y), fontsize=8, xytext=(3, 3), textcoords="offset points")
axis.set(aspect="equal")
axis.axis("off")
plt.show()

group = {n: next((g for g in [n, *above(n)] if g in experts), None) for n in names}
right = [experts[chosen[number[n]]] == g for n, g in group.items() if g]
print(f"words at the expert of their own order: {np.mean(right):.0%};",
      "all routes certified:", bool(routing.certified.all()))  # fmt: skip

# %% [markdown]
# Outputs are weighted by the gate $e^{-d}$, and no token is dropped, whatever the load:

# %%
matrices = jax.random.normal(jax.random.key(1), (5, 2, 2))
y, load = moe.apply(tangent, routing, lambda m, x: x @ m, matrices, return_info=True)
print("words an expert:", dict(zip(experts, load.count.tolist(), strict=True)))

# %% [markdown]
# ## The honest limit
# Here the hierarchy was given. In language models experts chosen by hyperbolic distance do
# specialise in classes of words, but experts chosen by Euclidean distance do so as much, a hash of
# the word gives a lower loss than either, and without a balance loss hyperbolic ones leave about
# half of the experts unused (`examples/specialisation.py`). What hyperbolic space does buy is few
# dimensions for a tree: 1,180 mammals in five with a mean rank of 1.17 (`examples/wordnet.py`).
