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
# # A cache that lives on the boundary, and survives losses
#
# **Question.** A cache of keys and values grows with every token. Can it grow like a surface
# instead, $\log N$ for a line of tokens, and what can it still answer? And when part of it is
# lost?

# %%
import jax
import jax.numpy as jnp
import matplotlib.pyplot as plt
import numpy as np

from physnet import holography
from physnet.holography import codes, memory

held = memory.init(32_768, 32)  # bytes, keys and values and all that goes with them
extend = jax.jit(memory.extend)
sizes = [100, 1_000, 10_000, 100_000]
for n in sizes:
    x = jax.random.normal(jax.random.key(0), (n, 32))
    full = extend(held, x, x)
    slots = memory.slots(full)
    used = int((slots.mass > 0).sum())
    print(f"{n:7,} tokens: {used:4} entries, {full.nbytes:6,} bytes, "
          f"mass {float(slots.mass.sum()):9,.0f}; plain cache {n * 256:12,} bytes")  # fmt: skip

# %% [markdown]
# A window of the newest tokens, the first few (sinks), landmarks of the highest score, and slots
# that merge pairwise as they age: slot $l$ stands for $2^l$ blocks, as the dyadic levels of the
# bulk do.
#
# ## What it can answer
# Plant 24 needles, pairs of key and value, in 4,000 tokens of noise and ask for each. With a
# score that knows what will be asked for (in a model it is learned), without one, and a window
# alone.

# %%
n, d, needles = 4_000, 32, 24
keys = jax.random.split(jax.random.key(1), 3)
key = jax.random.normal(keys[0], (n, d))
value = jax.random.normal(keys[1], (n, d))
place = jax.random.permutation(keys[2], n - 500)[:needles]
question = 3 * key[place]


def recall(score, budget):
    filled = memory.extend(memory.init(budget, d), key, value, score)
    found = jax.vmap(lambda q: memory.attend(q, filled))(question)
    near = jnp.argmax(found @ value[place].T, axis=1)  # which needle's value is it most like?
    return float(jnp.mean(near == jnp.arange(needles)))


known = jnp.full(n, 0.05).at[place].set(1.0)
budgets = [12_288, 16_384, 32_768, 65_536]
figure, axis = plt.subplots(figsize=(6, 3.4), layout="constrained")
for score, label in ((known, "with a score"), (None, "without")):
    axis.plot([b / 1024 for b in budgets], [recall(score, b) for b in budgets], "o-", label=label)
axis.axhline(1 / needles, color="0.7", ls=":", label="chance")
axis.set(xlabel="KiB (all tokens: 1,000)", ylabel="needles found", ylim=(0, 1.05))
axis.legend(frameon=False)
plt.show()

# %% [markdown]
# ## When a part is lost
# `protect` spreads every slot over all rows: a little more than half of the rows, whichever they
# are, give all of them back.

# %%
slots = jax.random.normal(jax.random.key(2), (64, 16))
coded = holography.protect(slots, rate=0.5, key=jax.random.key(3))  # 128 rows
shares = np.linspace(0, 0.5, 11)
error = {"coded": [], "stored twice": []}
for share in shares:
    lost = jax.random.permutation(jax.random.key(4), 128) < int(share * 128)
    back = holography.recover(coded, lost, slots=64, key=jax.random.key(3))
    twice = jnp.where((lost[:64] & lost[64:])[:, None], 0.0, slots)
    for name, x in (("coded", back), ("stored twice", twice)):
        error[name].append(float(jnp.sum((x - slots) ** 2) / jnp.sum(slots**2)))
figure, axes = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
for name, values in error.items():
    axes[0].plot(shares, values, "o-", label=name)
axes[0].set(xlabel="share of rows lost", ylabel="energy that is gone")
axes[0].legend(frameon=False)

# A quantum code of the same kind: a tiling of the hyperbolic plane by perfect tensors.
probabilities = np.linspace(0.05, 0.65, 7)
for rings in (1, 2):
    code = codes.happy_code("single-qubit", rings)
    rates = [float(codes.erasure_recovery(code, p, key=jax.random.key(5), samples=300))
             for p in probabilities]  # fmt: skip
    axes[1].plot(probabilities, rates, "o-", label=f"{code.physical} qubits")
axes[1].set(xlabel="share of qubits erased", ylabel="logical qubit recovered")
axes[1].legend(frameon=False)
plt.show()

# %% [markdown]
# ## The honest limit
# Merged slots by themselves answer no question (0.036 of what is asked for, in trained models):
# means of many tokens are nobody's key. What recalls is the score, a small network taught to
# foretell how much attention a token will get. On text a plain window of the same bytes is as good
# as the scored memory, and one in 4 bits is better. And a code needs room: twice the rows; where
# untrained slots must be merged to make room for it, that costs more than the code saves; in
# trained memories the code wins (.962 of pairs against .870 with a quarter of the packets lost).
