"""Where a loss of consistency says nothing: on maps that are reversible by construction."""

import jax
import jax.numpy as jnp
import pytest

from physnet import symplectic, time_reversal

STEPS = 12
OPTIONS = [(m, s) for m in ("euclidean", "hyperbolic") for s in (False, True)]


def force(params, position, _):
    """Of a small network: no gradient of a potential, which reversal does not ask for."""
    return jnp.tanh(position @ params["in"]) @ params["out"]


def leapfrog(*, damped=False, **options):
    """(one step there, one step back)"""

    def given(params):
        return options | ({"friction": params["friction"]} if damped else {})

    def there(params, state):
        h = params["step"]
        return symplectic.leapfrog(force, state, params, steps=1, step_size=h, **given(params))

    def back(params, state):
        h = params["step"]
        return symplectic.inverse(force, state, params, steps=1, step_size=h, **given(params))

    return there, back


def mirrored(there):
    """The way back by the same map, from the state with its momentum turned round."""

    def back(params, state):
        q, p = there(params, (state[0], -state[1]))
        return q, -p

    return there, back


def euler(params, state):
    q, p = state
    return q + params["step"] * p, p + params["step"] * force(params, q, None)


def lattice():
    """The same on integers, there and back by the rules of `reversible_scan` for gradients."""
    exact = symplectic.Lattice(2**40, "int64")

    def there(params, state):
        h = params["step"]
        return symplectic.reversible_scan(force, state, params, steps=1, step_size=h, lattice=exact)

    return there, leapfrog(lattice=exact)[1]


def losses_and_gradients(there, back):
    """For parameters of three scales, all forms of the loss, and the largest of their gradients."""

    def losses(params):
        state = jnp.array([[0.5, -0.25], [0.125, 1.0]]), jnp.array([[0.25, 0.5], [-0.75, 0.5]])

        def along(step):
            def one(state, _):
                new = step(params, state)
                return new, jnp.concatenate(new, -1)

            return one

        end, ahead = jax.lax.scan(along(there), state, None, length=STEPS)
        _, behind = jax.lax.scan(along(back), end, None, length=STEPS)
        ahead = jnp.concatenate([jnp.concatenate(state, -1)[None], ahead[:-1]])
        found = jnp.stack(
            [
                time_reversal.consistency_loss(ahead, behind[::-1], metric=m, squared=s)
                for m, s in OPTIONS
            ]
        )
        return found, found

    def of_scale(scale):
        keys = jax.random.split(jax.random.key(0))
        params = {
            "in": scale * jax.random.normal(keys[0], (2, 4), jnp.float64),
            "out": jax.random.normal(keys[1], (4, 2), jnp.float64),
            "step": jnp.float64(0.2),
            "friction": jnp.float64(0.5),
        }
        slopes, found = jax.jacrev(losses, has_aux=True)(params)
        slopes = jax.tree.leaves(slopes)
        largest = [jnp.max(jnp.abs(g.reshape(len(OPTIONS), -1)), -1) for g in slopes]
        return found, jnp.max(jnp.stack(largest), 0)

    return jax.jit(jax.vmap(of_scale))(jnp.array([0.3, 1.0, 3.0]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "ways",
    [
        leapfrog(),
        leapfrog(scheme="kick-drift-kick"),
        leapfrog(order=4),
        leapfrog(damped=True),
        mirrored(leapfrog()[0]),
    ],
    ids=["drift-kick-drift", "kick-drift-kick", "order 4", "friction inverted", "momentum turned"],
)
def test_reversible_maps_have_no_loss_and_no_gradient(ways):
    """Whatever the parameters: the way back is there before anything is learned."""
    losses, slopes = losses_and_gradients(*ways)
    assert losses.max() < 1e-10
    assert slopes.max() < 1e-10


def test_on_a_lattice_the_loss_is_zero():
    losses, slopes = losses_and_gradients(*lattice())
    assert not losses.any()
    assert slopes.max() < 1e-10


DAMPED = leapfrog(damped=True)[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    "ways",
    [mirrored(DAMPED), (DAMPED, leapfrog()[1]), mirrored(euler)],
    ids=["friction", "friction not inverted", "explicit Euler"],
)
def test_other_maps_have_both(ways):
    losses, slopes = losses_and_gradients(*ways)
    assert losses.min() > 1e-3
    assert slopes.min() > 1e-3
