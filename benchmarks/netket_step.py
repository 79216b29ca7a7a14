"""Single steps of NetKet's VMC_SR, recorded for the tests of `optim.imaginary_time`.

    python benchmarks/netket_step.py             # needs netket (3.23 made what is committed)

A restricted Boltzmann machine on the transverse-field Ising ring of four spins, real and complex,
twelve Monte Carlo samples: SR, minSR and two steps of SPRING. Writes tests/optim/netket_step.json:
the samples, their local energies, and the updates that the driver hands to optax (a gradient of the
energy over the metric: twice the direction of `imaginary_time`), in the order of `ravel_pytree`.
The parameters are 0.3 sin(1, 2, ...), of complex ones the imaginary parts go on counting.
"""

import json
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import netket
import numpy as np
from jax.flatten_util import ravel_pytree

OUTPUT = Path(__file__).parents[1] / "tests" / "optim" / "netket_step.json"
DAMPING = 1e-3


def state(dtype: Any) -> Any:
    """The ring, and an ansatz on it at its recorded point."""
    hilbert = netket.hilbert.Spin(0.5, 4)
    model = netket.models.RBM(alpha=1, param_dtype=dtype)
    sampler = netket.sampler.ExactSampler(hilbert)
    found = netket.vqs.MCState(sampler, model, n_samples=12, seed=1, sampler_seed=2)
    flat, back = ravel_pytree(found.parameters)
    values = 0.3 * np.sin(np.arange(1, 1 + flat.size))
    if jnp.iscomplexobj(flat):
        values = values + 0.3j * np.sin(np.arange(1 + flat.size, 1 + 2 * flat.size))
    found.parameters = back(jnp.asarray(values, flat.dtype))
    return found


def numbers(x: Any) -> Any:
    """As lists; complex ones as [real, imaginary] lists of all."""
    x = np.asarray(x)
    return [x.real.tolist(), x.imag.tolist()] if np.iscomplexobj(x) else x.tolist()


def record(dtype: Any, *, ntk: bool, momentum: float | None, steps: int) -> list[dict[str, Any]]:
    """Steps of one driver, without moving: what went in, and what came out."""
    found = state(dtype)
    ising = netket.operator.Ising(found.hilbert, netket.graph.Chain(4), h=1.0, J=-1.0)
    driver = netket.driver.VMC_SR(
        ising, netket.optimizer.Sgd(0.1), diag_shift=DAMPING, variational_state=found,
        use_ntk=ntk, on_the_fly=False, momentum=momentum,
    )  # fmt: skip
    rows = []
    for _ in range(steps):
        found.reset()
        _, update = driver.compute_loss_and_update()
        energies = found.local_estimators(ising).data
        rows.append({
            "samples": np.asarray(found.samples).reshape(-1, 4).astype(int).tolist(),
            "energies": numbers(np.ravel(energies)),
            "update": numbers(ravel_pytree(update)[0]),
        })  # fmt: skip
    return rows


def main() -> None:
    cases = {
        "sr": record(float, ntk=False, momentum=None, steps=1),
        "minsr": record(float, ntk=True, momentum=None, steps=1),
        "spring": record(float, ntk=True, momentum=0.8, steps=2),
        "complex sr": record(complex, ntk=False, momentum=None, steps=1),
        "complex spring": record(complex, ntk=True, momentum=0.8, steps=2),
    }
    versions = {"netket": netket.__version__, "jax": jax.__version__}
    report = {"versions": versions, "damping": DAMPING, "momentum": 0.8, "cases": cases}
    OUTPUT.write_text(json.dumps(report) + "\n")
    print(f"wrote {OUTPUT}")


if __name__ == "__main__":
    main()
