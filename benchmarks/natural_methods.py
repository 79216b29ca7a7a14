"""The optimisers of natural_gradient.py, each with the two numbers that are tuned.

A method makes, from a task, a learning rate (a schedule) and a second number, what starts its state
and its step (params, state, batch, key, t) -> (updates, state). Both numbers may be traced.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from natural_tasks import Task, factors

from physnet import optim

Steps = tuple[Callable[[Any], Any], Callable[..., tuple[Any, Any]]]
RENEW = {"digits": 5, "text": 10}  # steps between scores of a Fisher metric; Sophia's default: 10
TRUST = 0.3  # the longest step of Fisher Adam: about 0.05 nats an example
CURVATURE_SHARE = 4  # of a batch of text, this part gives the metric of "cg"


class Method(NamedTuple):
    """A row of the table: learning rates and second numbers that are tried."""

    make: Callable[[Task, Any, Any], Steps]
    rates: tuple[float, float]
    second: str
    values: tuple[float, ...]


def _gradient(task: Task, params: Any, batch: Any) -> Any:
    return jax.grad(task.loss)(params, batch)


def _plain(optimiser: Any, task: Task) -> Steps:
    def step(params, state, batch, key, t):
        return optimiser.update(_gradient(task, params, batch), state, params)

    return optimiser.init, step


def sgd(task: Task, rate: Any, momentum: Any) -> Steps:
    return _plain(optax.sgd(rate, momentum=momentum), task)


def adam(task: Task, rate: Any, b2: Any) -> Steps:
    return _plain(optax.adam(rate, b2=b2), task)


def muon(task: Task, rate: Any, beta: Any) -> Steps:
    """Muon on hidden matrices, Adam elsewhere, updates of like size."""

    def dimensions(params):
        hidden = optax.contrib.MuonDimensionNumbers
        return jax.tree.map(
            lambda p, m: hidden(p.ndim - 2, p.ndim - 1) if m and _hidden(task, p) else None,
            params,
            task.matrix(params),
        )

    return _plain(
        optax.contrib.muon(
            rate, beta=beta, consistent_rms=0.2, muon_weight_dimension_numbers=dimensions
        ),
        task,
    )


def _hidden(task: Task, leaf: jax.Array) -> bool:
    return leaf.ndim == 3 if task.name == "text" else leaf.shape[-1] != 10


def sophia(task: Task, rate: Any, gamma: Any) -> Steps:
    """With Hutchinson's estimate of the Hessian's diagonal at each tenth step."""
    optimiser = optax.contrib.sophia(rate, gamma=gamma, weight_decay=0.0)

    def step(params, state, batch, key, t):
        objective = lambda p: task.loss(p, batch)  # noqa: E731
        grads = _gradient(task, params, batch)
        return optimiser.update(grads, state, params, obj_fn=objective)

    return optimiser.init, step


def _rows(task: Task, params: Any, inputs: jax.Array, labels: jax.Array) -> Any:
    """Scores of a batch's digits or sequences; their metric is a mean over predictions."""

    def log_likelihood(params, example):
        logits = task.logits(params, example[0])
        return -jnp.sum(optax.softmax_cross_entropy_with_integer_labels(logits, example[1]))

    weights = jnp.full(len(inputs), 1 / labels.size, jnp.float32)
    return optim.likelihood_rows(log_likelihood, params, (inputs, labels), weights=weights)


def sr(momentum: float, solver: Any = None, labels: str = "summed") -> Callable[..., Steps]:
    """The whole Fisher information of a batch: of summed, the data's, or drawn labels."""

    def make(task: Task, rate: Any, damping: Any) -> Steps:
        optimiser = optim.imaginary_time(rate, damping=damping, momentum=momentum, solver=solver)

        def step(params, state, batch, key, t):
            if labels == "summed":
                rows = optim.categorical_rows(task.logits, params, *batch)
                return optimiser.update(None, state, params, **rows._asdict())
            inputs, given = batch
            if labels == "drawn":
                given = task.drawn(params, inputs, key)
            rows = _rows(task, params, inputs, given)
            residual = rows.residual if labels == "data" else None
            grads = None if labels == "data" else _gradient(task, params, batch)
            return optimiser.update(grads, state, params, jacobian=rows.jacobian, residual=residual)

        return optimiser.init, step

    return make


def conjugate_gradients(task: Task, rate: Any, damping: Any) -> Steps:
    """The Fisher information of a part of each batch by its products: five, from the last step."""
    optimiser = optim.imaginary_time(rate, damping=damping, iterations=5, warm_start=True)

    def step(params, state, batch, key, t):
        inputs, labels = (x[: len(x) // CURVATURE_SHARE] for x in batch)
        rows = optim.categorical_rows(task.logits, params, inputs, labels, products=True)
        grads = _gradient(task, params, batch)
        return optimiser.update(grads, state, params, jacobian=rows.jacobian)

    return optimiser.init, step


def fisher(metric: Any, power: float = 1.0) -> Callable[..., Steps]:
    """`fisher_adam`, labels drawn every few steps: factors on digits, sequences' scores on text."""

    def make(task: Task, rate: Any, damping: Any) -> Steps:
        optimiser = optim.fisher_adam(
            rate, metric=metric, damping=damping, b2=0.9, power=power, every=2,
            trust=TRUST if power == 1 else None, matrices=task.matrix,
        )  # fmt: skip

        def scores(params, inputs, key):
            labels = task.drawn(params, inputs, key)
            if task.tapped is not None:
                return factors(task, params, inputs, labels)
            return _rows(task, params, inputs, labels).jacobian

        def step(params, state, batch, key, t):
            grads = _gradient(task, params, batch)

            def renewed(state):
                jacobian = scores(params, batch[0], key)
                return optimiser.update(grads, state, params, jacobian=jacobian)

            def kept(state):
                return optimiser.update(grads, state, params, jacobian=None)

            return jax.lax.cond(t % RENEW[task.name] == 0, renewed, kept, state)

        return optimiser.init, step

    return make


_DIGITS = {
    "SGD, momentum": Method(sgd, (0.03, 1.0), "momentum", (0.9, 0.95)),
    "Adam": Method(adam, (0.01, 0.3), "b2", (0.99, 0.999)),
    "Muon": Method(muon, (0.01, 0.3), "beta", (0.95, 0.9)),
    "Sophia": Method(sophia, (3e-3, 0.1), "gamma", (0.01, 1.0)),
    "Fisher Adam, diagonal": Method(fisher("diagonal"), (0.01, 1.0), "damping", (0.01, 0.1)),
    "Fisher Adam, Kronecker": Method(fisher("kronecker"), (0.1, 3.0), "damping", (0.01, 0.1)),
    "root of the Fisher diagonal": Method(
        fisher("diagonal", 0.5), (0.01, 0.3), "damping", (1e-6, 1e-4)
    ),
    "SR = minSR, summed labels": Method(sr(0.0), (0.1, 3.0), "damping", (0.01, 0.1)),
    "SPRING, summed labels": Method(sr(0.9), (0.03, 1.0), "damping", (0.01, 0.1)),
    "SPRING, drawn labels": Method(sr(0.9, labels="drawn"), (0.1, 3.0), "damping", (0.1, 1.0)),
    "minSR, empirical Fisher": Method(sr(0.0, labels="data"), (0.1, 3.0), "damping", (0.01, 0.1)),
}
_TEXT = {
    "SGD, momentum": Method(sgd, (0.1, 3.0), "momentum", (0.9, 0.95)),
    "Adam": Method(adam, (3e-4, 0.01), "b2", (0.99, 0.999)),
    "Muon": Method(muon, (3e-3, 0.1), "beta", (0.95, 0.9)),
    "Sophia": Method(sophia, (1e-3, 0.03), "gamma", (0.01, 1.0)),
    "Fisher Adam, diagonal": Method(fisher("diagonal"), (0.01, 0.3), "damping", (0.01, 0.1)),
    "Fisher Adam, Kronecker": Method(fisher("kronecker"), (0.01, 0.3), "damping", (0.01, 0.1)),
    "root of the Fisher diagonal": Method(
        fisher("diagonal", 0.5), (1e-3, 0.03), "damping", (1e-8, 1e-6)
    ),
    "minSR, drawn labels": Method(sr(0.0, labels="drawn"), (0.003, 0.1), "damping", (0.01, 0.1)),
    "SPRING, drawn labels": Method(sr(0.9, labels="drawn"), (0.003, 0.1), "damping", (0.01, 0.1)),
    "SR by conjugate gradients": Method(conjugate_gradients, (0.01, 0.3), "damping", (0.01, 0.1)),
}
METHODS = {"digits": _DIGITS, "text": _TEXT}
