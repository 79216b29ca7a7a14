"""NetKet's VMC_SR and `optim.imaginary_time` side by side on the rings of examples/ground_state.py.

    taskset -c 0 python benchmarks/netket_ground_state.py           # needs netket; minutes
    python benchmarks/netket_ground_state.py --preset smoke

The same restricted Boltzmann machine (alpha = 2, no visible bias, real, float64), the same
initial spread, rates, damping and steps; NetKet's rate is half as large, since its update is twice
as long.

    SR        sums over the basis: FullSumState here, weights = |psi|^2 there
    minSR     256 samples a step drawn from |psi|^2: ExactSampler here, the same sums there
    SPRING    minSR with momentum 0.95

Both sample by sums over the basis, so that neither pays for a Markov chain. Prints and writes the
relative error of the exact energy after the last step, and CPU seconds a step of both, compilation
left out (CPU seconds of the whole process, so run it on one core). NetKet's drivers leave the
compiled step after each for Python, its logs and its statistics; the other one is one scan.
Writes benchmarks/results/netket_ground_state.json.
"""

import argparse
import dataclasses
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import netket
import numpy as np

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "examples"))

import ground_state as example  # noqa: E402

METHODS = ("SR", "minSR", "SPRING")


def peer(ring: example.Ring, method: str, preset: example.Preset, seed: int) -> dict[str, float]:
    """NetKet's run: its error and CPU seconds a step."""
    spins = ring.states.shape[1]
    chain = netket.graph.Chain(spins)
    if ring.name == "Ising":
        hilbert = netket.hilbert.Spin(0.5, spins)
        h = netket.operator.Ising(hilbert, chain, h=1.0, J=-1.0)
    else:
        hilbert = netket.hilbert.Spin(0.5, spins, total_sz=0)
        h = netket.operator.Heisenberg(hilbert, chain, J=0.25, sign_rule=True)
    model = netket.models.RBM(
        alpha=2,
        param_dtype=float,
        use_visible_bias=False,
        kernel_init=jax.nn.initializers.normal(0.1),
        hidden_bias_init=jax.nn.initializers.normal(0.1),
    )
    full = netket.vqs.FullSumState(hilbert, model, seed=seed)
    if method == "SR":
        state: Any = full
    else:
        sampler = netket.sampler.ExactSampler(hilbert)
        state = netket.vqs.MCState(sampler, model, n_samples=preset.samples, seed=seed)
    rate, floor, momentum = example.METHODS[method]
    damping = lambda count: jnp.maximum(floor, 1e-2 * 0.95**count)  # noqa: E731
    driver = netket.driver.VMC_SR(
        h,
        netket.optimizer.Sgd(rate / 2),
        diag_shift=damping,
        variational_state=state,
        use_ntk=method != "SR",
        on_the_fly=False,
        momentum=momentum or None,
    )
    driver.run(3, out=(), show_progress=False)  # compiles
    begun = time.process_time()
    driver.run(preset.steps - 3, out=(), show_progress=False)
    jax.block_until_ready(state.parameters)
    seconds = (time.process_time() - begun) / (preset.steps - 3)
    full.parameters = state.parameters
    energy = float(full.expect(h).mean.real)
    return {"error": (energy - ring.exact) / abs(ring.exact), "seconds": seconds}


def own(ring: example.Ring, method: str, preset: example.Preset, seed: int) -> dict[str, float]:
    """The example's run."""
    row = example.run(ring, method, preset, seed)
    return {"error": row["error"], "seconds": row["cpu_seconds"] / preset.steps}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--preset", choices=example.PRESETS, default="full")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument(
        "--results", type=Path, default=ROOT / "benchmarks/results/netket_ground_state.json"
    )
    arguments = parser.parse_args()
    preset = dataclasses.replace(example.PRESETS[arguments.preset], seeds=arguments.seeds)
    rows = []
    with jax.enable_x64(True):
        for ring in (example.ising(preset.spins), example.heisenberg(preset.spins)):
            for method in METHODS:
                for seed in range(preset.seeds):
                    for name, run in (("netket", peer), ("physnet", own)):
                        row = {"model": ring.name, "method": method, "seed": seed, "code": name}
                        rows.append(row | run(ring, method, preset, seed))
                for name in ("netket", "physnet"):
                    mine = [r for r in rows if (r["model"], r["method"], r["code"])
                            == (ring.name, method, name)]  # fmt: skip
                    error, seconds = (np.median([r[k] for r in mine]) for k in ("error", "seconds"))
                    print(f"{ring.name:12}{method:8}{name:9} error {error:8.1e}  "
                          f"{1e3 * seconds:7.1f} CPU ms a step", flush=True)  # fmt: skip
    versions = {"netket": netket.__version__, "jax": jax.__version__}
    options = f"--preset {arguments.preset} --seeds {arguments.seeds}"
    report = {
        "command": f"python benchmarks/netket_ground_state.py {options}",
        "device": jax.devices()[0].device_kind,
        "machine": platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "versions": versions | {"python": platform.python_version()},
        "preset": dataclasses.asdict(preset),
        "methods": {name: example.METHODS[name] for name in METHODS},
        "rows": rows,
    }
    arguments.results.parent.mkdir(parents=True, exist_ok=True)
    arguments.results.write_text(json.dumps(report, indent=1) + "\n")
    print(f"wrote {arguments.results}")


if __name__ == "__main__":
    main()
