"""Particles over devices and over processes: the same step as on one device."""

import os
import socket
import subprocess
import sys

import pytest

COMMON = """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import PartitionSpec as P
from physnet.superposition import path_integral

mesh = jax.make_mesh((jax.device_count(),), ("particles",),
                     axis_types=(jax.sharding.AxisType.Auto,))
params = {"w": np.full((5, 4), 0.1, np.float32), "b": np.zeros(4, np.float32)}
x = np.linspace(-1, 1, 15).reshape(3, 5).astype(np.float32)

def loss(p, x):
    def layer(h, _):  # a loop that knows nothing of meshes
        return jnp.tanh(h @ p["w"] + p["b"]) @ jnp.ones((4, 5), jnp.float32), None
    h, _ = jax.lax.scan(layer, x, None, length=2)
    return jnp.mean((h - jnp.asarray(x)) ** 2) + jnp.sum((p["b"] - 1) ** 2)

def furthest(one, other):
    def gap(a, b):
        a, b = (np.asarray(v.addressable_data(0), np.float64) for v in (a, b))
        return float(np.max(np.abs(a - b) / (1 + np.abs(a))))
    return max(jax.tree.leaves(jax.tree.map(gap, one, other)))

def compare(**options):
    state = path_integral.init(params, sigma=0.3, **options)
    run = jax.jit(path_integral.sharded_step(mesh, "particles"), static_argnums=2)
    many = run(jax.random.key(1), state, loss, x)
    assert many[0].config == state.config
    print(sum(float(np.sum(v.addressable_data(0))) for v in jax.tree.leaves(many)))
    if jax.process_index() == 0:  # what other processes have is the same, as they print
        one = jax.jit(path_integral.step, static_argnums=2)(jax.random.key(1), state, loss, x)
        print(furthest(one, many))
"""

DEVICES = """
assert jax.device_count() == 8
compare(particles=26, antithetic=True, rank=1, materialise=False, chunk=2)

# Within a shard_map of the user's own, the batch over a second axis, its loss in parts.
mesh = jax.make_mesh((4, 2), ("p", "data"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
options = dict(sigma=0.3, particles=14, covariance="diagonal", chunk=2)
state = path_integral.init(params, **options)
here = path_integral.init(params, axis_name="p", **options)
rows = np.concatenate([x, x - 1])

def whole(p, rows):
    return jnp.mean(jnp.tanh(jnp.asarray(rows) @ p["w"] + p["b"]) ** 2)

def parts(p, rows):
    return jax.lax.pmean(whole(p, rows), "data")

run = lambda key, state, rows: path_integral.step(key, state, parts, rows)
run = jax.shard_map(run, mesh=mesh, in_specs=(P(), P(), P("data")), out_specs=P())
many = jax.jit(run)(jax.random.key(1), here, rows)
one = jax.jit(path_integral.step, static_argnums=2)(jax.random.key(1), state, whole, rows)
print(furthest(jax.tree.leaves(one), jax.tree.leaves(many)))
"""

PROCESSES = """
import sys, jax
jax.distributed.initialize(f"127.0.0.1:{sys.argv[2]}", num_processes=2,
                           process_id=int(sys.argv[1]))
"""

TOLERANCE = 1e-6


def test_eight_devices_make_the_step_of_one(on_devices):
    _, spread, own = map(float, on_devices(COMMON + DEVICES, 8).splitlines())
    assert max(spread, own) < TOLERANCE


@pytest.mark.slow
def test_two_processes_make_the_step_of_one():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = PROCESSES + COMMON + "\nassert jax.device_count() == 2 == 2 * jax.local_device_count()\n"
    code += 'compare(particles=12, covariance="none")\n'
    environment = os.environ | {"JAX_PLATFORMS": "cpu", "JAX_DISABLE_MOST_OPTIMIZATIONS": "1"}
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(rank), str(port)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    printed = []
    try:
        for process in started:
            out, err = process.communicate(timeout=120)
            assert process.returncode == 0, err[-3000:]
            lines = [line for line in out.splitlines() if not line.startswith("[Gloo]")]
            printed.append([float(line) for line in lines])
        (total, gap), (other,) = printed
        assert gap < TOLERANCE
        assert total == other
    finally:
        for process in started:
            process.kill()
