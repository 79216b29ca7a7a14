"""All tables as one."""

import fuzz_codes
import fuzz_dynamics
import fuzz_greens
import fuzz_holography
import fuzz_hyperbolic
import fuzz_layers
import fuzz_memory
import fuzz_models
import fuzz_optim
import fuzz_scattering
import fuzz_superposition

PARTS = (
    fuzz_greens,
    fuzz_scattering,
    fuzz_hyperbolic,
    fuzz_holography,
    fuzz_codes,
    fuzz_memory,
    fuzz_optim,
    fuzz_superposition,
    fuzz_dynamics,
    fuzz_layers,
    fuzz_models,
)
ENTRIES = {name: entry for part in PARTS for name, entry in part.ENTRIES.items()}
REASONS = {name: reason for part in PARTS for name, reason in part.REASONS.items()}
