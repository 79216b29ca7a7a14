"""The training step: a batch, its gradient, one update; and a call of several of them."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax

from lm.rows import Model, Teacher, decayed, kinds
from lm.settings import Training
from physnet import optim
from physnet.superposition import distill

PROBES = 2**30
"""Folds the key of a penalty's probes from that of dropout, beyond every site of it."""

CALIBRATION = 16
"""Windows of text from which gates take their constants."""
CALIBRATION_TOKENS = 2**15
"""Of long windows fewer, so that they do not need more memory than a step."""


def batch(tokens: jax.Array, key: jax.Array, *, size: int, block: int) -> jax.Array:
    """`size` random windows of `block` characters and their next ones: (size, block + 1)."""
    start = jax.random.randint(key, (size, 1), 0, tokens.shape[0] - block, jnp.int32)
    return tokens[start + jnp.arange(block + 1, dtype=jnp.int32)[None]]


def losses(logits: jax.Array, targets: jax.Array) -> jax.Array:
    """Nats for each target character."""
    chosen = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - chosen


def mean_loss(
    model: Model, dtype: Any, params: Any, windows: jax.Array, key: jax.Array | None
) -> jax.Array:
    logits = model.apply(model.config, params, windows[:, :-1], key=key, dtype=dtype)
    return jnp.mean(losses(logits, windows[:, 1:]))


def objective(
    model: Model,
    dtype: Any,
    params: Any,
    windows: jax.Array,
    key: jax.Array,
    *,
    taught: jax.Array | None = None,
) -> tuple[jax.Array, jax.Array]:
    """What a step reduces, and the mean loss in it: they differ with a penalty or a teacher.

    `taught` are the logits (K, B, T, V) of the teacher's members.
    """
    if model.teacher is not None:
        return _from_teacher(model, model.teacher, dtype, params, windows, key, taught)
    loss = mean_loss(model, dtype, params, windows, key)
    return penalised(model, dtype, params, windows, key, loss)


def penalised(
    model: Model, dtype: Any, params: Any, windows: jax.Array, key: jax.Array, loss: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """The loss with the model's penalty if it has one, and without."""
    if model.penalty is None:
        return loss, loss
    function, weight, count = model.penalty
    probes = jax.random.fold_in(key, PROBES)
    found = function(model.config, params, windows[:count, :-1], key=probes, dtype=dtype)
    return loss + weight * found, loss


def _from_teacher(
    model: Model,
    teacher: Teacher,
    dtype: Any,
    params: Any,
    windows: jax.Array,
    key: jax.Array,
    taught: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    assert taught is not None
    logits = model.apply(model.config, params, windows[:, :-1], key=key, dtype=dtype)
    loss = jnp.mean(losses(logits, windows[:, 1:]))
    divergence = {"forward": distill.mixture_kl, "reverse": distill.reverse_mixture_kl}
    apart = jnp.mean(divergence[teacher.direction](logits, taught))
    return teacher.labels * loss + (1.0 - teacher.labels) * apart, loss


def members_logits(model: Model, params: Any, tokens: jax.Array, dtype: Any) -> jax.Array:
    """Logits (K, B, T, V) of each member of an ensemble."""
    return jax.vmap(lambda own: model.apply(model.config, own, tokens, dtype=dtype))(params)


def optimiser(model: Model, training: Training) -> optax.GradientTransformation:
    """AdamW with warmup and cosine, clipped gradients, weight decay on matrices.

    Centroids of experts move along geodesics instead, by the same schedule and without decay.
    """
    warmup = min(training.warmup, training.steps)
    schedule = optax.warmup_cosine_decay_schedule(
        init_value=model.learning_rate / (warmup + 1),
        peak_value=model.learning_rate,
        warmup_steps=warmup,
        decay_steps=max(training.steps, warmup + 1),
        end_value=training.final_share * model.learning_rate,
    )
    adamw = optax.adamw(
        schedule,
        b1=training.beta1,
        b2=training.beta2,
        weight_decay=training.weight_decay,
        mask=decayed,
    )
    if model.place is not None:
        geodesic = optim.riemannian_adam(
            schedule, coordinates="tangent", b1=training.beta1, b2=training.beta2
        )
        adamw = optax.partition({"number": adamw, "point": geodesic}, kinds)
    return optax.chain(optax.clip_by_global_norm(training.clip), adamw)


def initial_state(model: Model, training: Training, *, seed: Any = None) -> dict[str, Any]:
    """Parameters and optimiser at the start; `seed` may be traced (None: that of the training)."""
    params = model.init(model.config, jax.random.key(training.seed if seed is None else seed))
    return {"params": params, "optimiser": optimiser(model, training).init(params)}


def differentiated(
    model: Model,
    dtype: Any,
    params: Any,
    windows: jax.Array,
    key: jax.Array,
    taught: jax.Array | None,
) -> tuple[jax.Array, Any]:
    """The mean loss of the windows, and the gradient of what a step reduces."""
    (_, loss), gradient = jax.value_and_grad(
        lambda params: objective(model, dtype, params, windows, key, taught=taught),
        has_aux=True,
    )(params)
    return loss, gradient


def step(
    model: Model,
    training: Training,
    *,
    seed: Any = None,
    differentiated: Callable[..., tuple[jax.Array, Any]] = differentiated,
    given: bool = False,
) -> Callable[..., Any]:
    """A function (state, tokens, number) -> (state, metrics): batch, gradient and update.

    Batch and dropout are functions of the seed and of the step's number alone. `tokens` are the
    text, or where it is `given` the batch itself; with a teacher the pair of it and the teacher's
    parameters. `differentiated` may spread its work over devices.
    """
    seed = training.seed if seed is None else seed
    update = optimiser(model, training).update
    dtype = jnp.dtype(training.dtype)

    def run(state: dict[str, Any], tokens: Any, number: jax.Array) -> tuple[Any, Any]:
        tokens, teacher = tokens if model.teacher is not None else (tokens, None)
        root = jax.random.fold_in(jax.random.key(seed), 1)
        data_key, dropout_key = jax.random.split(jax.random.fold_in(root, number))
        windows = tokens
        if not given:
            windows = batch(tokens, data_key, size=training.batch, block=training.block)
        params, taught = state["params"], None
        if model.teacher is not None:
            taught = members_logits(model.teacher.model, teacher, windows[:, :-1], dtype)
        loss, gradient = differentiated(model, dtype, params, windows, dropout_key, taught)
        updates, optimiser_state = update(gradient, state["optimiser"], params)
        state = {"params": optax.apply_updates(params, updates), "optimiser": optimiser_state}
        return state, {"loss": loss, "gradient_norm": optax.tree.norm(gradient)}

    return run


def calibrated(
    model: Model, training: Training, params: Any, tokens: jax.Array, key: jax.Array
) -> Any:
    """The parameters with gates set from random windows of the text, where there are gates."""
    if model.calibrate is None:
        return params
    sample = _sample(training, tokens, key)
    return model.calibrate(model.config, params, sample, dtype=jnp.dtype(training.dtype))


def placed(model: Model, training: Training, params: Any, tokens: jax.Array) -> Any:
    """The parameters at the start with experts placed where the text's tokens are, if any."""
    if model.place is None:
        return params
    key, clusters = jax.random.split(jax.random.fold_in(jax.random.key(training.seed), 3))
    sample = _sample(training, tokens, key)
    dtype = jnp.dtype(training.dtype)
    return model.place(model.config, params, sample, key=clusters, dtype=dtype)


def _sample(training: Training, tokens: jax.Array, key: jax.Array) -> jax.Array:
    size = max(1, min(CALIBRATION, CALIBRATION_TOKENS // training.block))
    return batch(tokens, key, size=size, block=training.block)[:, :-1]


def steps(
    model: Model,
    training: Training,
    count: int,
    *,
    seed: Any = None,
    given: bool = False,
    **options: Any,
) -> Callable[..., Any]:
    """A function (state, tokens, first) -> (state, metrics) that takes `count` steps.

    Gates are calibrated once, before the first of them. Batches, dropout and calibration are
    functions of the seed and of the numbers of the steps in a call, so that a resumed run sees
    what an unbroken one sees. `seed` may be traced, for ensembles under vmap. Where batches are
    `given`, `tokens` are those of all steps, (count, B, T + 1), and gates are set from a part of
    them. Other options are those of `step`.
    """
    seed = training.seed if seed is None else seed
    one = step(model, training, seed=seed, given=given, **options)

    def run(state: dict[str, Any], tokens: Any, first: jax.Array) -> tuple[Any, Any]:
        key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), 2), first)
        text = tokens[0] if model.teacher is not None else tokens
        if given:  # one after the other the windows are a text as well
            text = text.reshape(-1)
        state = state | {"params": calibrated(model, training, state["params"], text, key)}
        numbers = first + jnp.arange(count, dtype=jnp.int32)
        if given:
            return jax.lax.scan(lambda state, each: one(state, *each), state, (tokens, numbers))
        return jax.lax.scan(lambda state, number: one(state, tokens, number), state, numbers)

    return run


def begin(model: Model, training: Training) -> Any:
    """`initial_state`, of an ensemble that of every member."""
    return _begun(model._replace(name="", label="", teacher=None), training)


@functools.partial(jax.jit, static_argnums=(0, 1))
def _begun(model: Model, training: Training) -> Any:
    """Compiled once for all rows that begin alike."""
    if not model.members:
        return initial_state(model, training)
    return jax.vmap(lambda seed: initial_state(model, training, seed=seed))(_seeds(model, training))


def program(model: Model, training: Training, count: int, **options: Any) -> Callable[..., Any]:
    """`steps`, of an ensemble those of every member side by side, with the means of what they log.

    A member takes the steps that a model of its seed takes alone, but for the order of sums.
    """
    if not model.members:
        return steps(model, training, count, **options)

    def run(state: Any, tokens: Any, first: jax.Array) -> tuple[Any, Any]:
        def member(seed: jax.Array, state: Any) -> tuple[Any, Any]:
            return steps(model, training, count, seed=seed)(state, tokens, first)

        state, measured = jax.vmap(member)(_seeds(model, training), state)
        return state, jax.tree.map(lambda values: jnp.mean(values, axis=0), measured)

    return run


def _seeds(model: Model, training: Training) -> jax.Array:
    return training.seed + jnp.arange(model.members, dtype=jnp.int32)


def read_by(model: Model, text: Any) -> Any:
    """What a step of the row reads: the text, and the teacher's parameters where it has one."""
    return text if model.teacher is None else (text, model.teacher.params)
