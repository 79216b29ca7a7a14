"""Sizes and mechanisms of BK-Core."""

import dataclasses
import math
from typing import Literal

from physnet import _checks, holography


@dataclasses.dataclass(frozen=True)
class BKCoreConfig:
    """Sizes and mechanisms of the model.

    `mixer=False` leaves the chain only its gate, `attention=False` only its mixer. `density` is
    the share of causal pairs that `calibrate` makes the gate keep, the band of `local_window`
    nearest tokens included. `hidden=None` is 5/2 of the width. `chains` is the number of
    Hamiltonians of a layer, shared out evenly among the attention heads; `soft_gate` and
    `learn_hopping` are as in `nn.attention.init` and `nn.mixer.init`, `rotary_base` as in
    `nn.layers.rotary`. `dropout` acts where `apply` gets a key, and so does `token_dropout`, the
    share of tokens that random ones replace in training: then what the mixer holds of a text is
    never quite the same twice, and a model that sees few texts often cannot learn them by heart.

    With `experts` > 0 the feed-forward is a mixture of so many (`moe`), without a router: a learned
    map takes the normed stream to tangent coordinates of a hyperbolic space of `route_dim`
    dimensions, where a token goes to its `expert_top_k` nearest centroids. Each expert is a
    feed-forward of `expert_width` (None: `hidden`, as many products a token as without experts when
    `expert_top_k` is 1). Gates are e^{-d}, normalised over the experts of a token and the next
    nearest one: so they train map and centroids also where a token has one expert. The leaves
    `layers/route/centroids` are points: `optim.riemannian_adam(coordinates="tangent")` trains them
    as such, without weight decay.

    `teleport` > 0 is the strength with which gradients jump over blocks (`teleport.scan` with
    `teleport_mode`): training differs, no output does. Blocks are residual, so their rho is taken
    for 1; "gated" measures it in each pass by two probes of the first 256 tokens of the first
    sequence, and jumps only where it is at least 1/2. Strengths of the order 1 / layers^2 keep
    gradients of the same order. 0 compiles to a model without.

    `reversible` splits the stream into position and momentum: mixer and attention read the position
    and kick the momentum, the feed-forward reads that and moves the position, both on a lattice of
    2^-22 (`symplectic.coupled_scan`). The backward pass rebuilds the stream of each block, to the
    bit, from that of the next: the memory of activations does not grow with `layers`, for two more
    forward passes. Positions and momenta must stay below 2^9: else all logits are NaN. Jumping
    gradients need what is not kept: with `teleport` > 0 activations are stored, as in a model that
    is not reversible.

    With `memory` each head attends through a boundary memory of this size, in place of the pairs
    that the gate keeps (`holography.memory.configure` sizes a budget of bytes): forward, training
    and `generate`, whose cache then has the same size at any length. A token's score is its mass,
    in the logits and where tokens merge, and it gets a gradient from there (no `soft_gate` is
    needed, nor taken); tokens with a score up to the threshold go from the memory's window, which
    takes the place of `local_window`, straight to its levels. Parameters are the same.
    """

    vocab_size: int
    layers: int = 4
    heads: int = 4
    width: int = 128
    hidden: int | None = None
    chains: int = 16
    mixer: bool = True
    attention: bool = True
    density: float = 0.4
    local_window: int = 8
    soft_gate: bool = False
    learn_hopping: bool = False
    rotary_base: float = 1000.0
    dropout: float = 0.0
    token_dropout: float = 0.0
    experts: int = 0
    expert_top_k: int = 1
    expert_width: int | None = None
    route_dim: int = 8
    teleport: float = 0.0
    teleport_mode: Literal["dyson", "chain", "gated"] = "dyson"
    reversible: bool = False
    memory: holography.memory.Config | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "layers", "heads", "width", "chains"):
            object.__setattr__(self, name, _checks.positive_int(name, getattr(self, name)))
        window = _checks.positive_int("local_window", self.local_window, minimum=0)
        object.__setattr__(self, "local_window", window)
        if self.hidden is None:
            object.__setattr__(self, "hidden", 5 * self.width // 2)
        object.__setattr__(self, "hidden", _checks.positive_int("hidden", self.hidden))
        for name in ("density", "dropout", "token_dropout", "teleport", "rotary_base"):
            _checks.number(name, getattr(self, name))
        for name in ("heads", "chains"):
            if self.width % (2 * getattr(self, name)):
                raise ValueError(
                    f"width must be a multiple of 2 * {name} = {2 * getattr(self, name)}, "
                    f"got {self.width}"
                )
        if self.chains % self.heads:
            raise ValueError(f"chains must be a multiple of heads={self.heads}, got {self.chains}")
        if not 0.0 <= self.density <= 1.0:
            raise ValueError(f"density must be in [0, 1], got {self.density}")
        for name in ("dropout", "token_dropout"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise ValueError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if not 0.0 <= self.teleport < math.inf:
            raise ValueError(f"teleport must be a finite number >= 0, got {self.teleport}")
        _checks.one_of("teleport_mode", self.teleport_mode, ("dyson", "chain", "gated"))
        if self.memory is not None:
            if not self.attention:
                raise ValueError("memory is for attention: with attention=False it must be None")
            if self.soft_gate:
                raise ValueError("soft_gate must be False with memory, where scores are masses")
        if not (self.mixer or self.attention):
            raise ValueError("mixer or attention must be True: tokens would not see each other")
        gate_alone = self.memory is None and not self.mixer
        if gate_alone and self.density == 0.0 and not self.local_window:
            raise ValueError(
                "density or local_window must be above 0 without mixer and memory: tokens would "
                "not see each other"
            )
        _checks.positive_int("experts", self.experts, minimum=0)
        for name in ("expert_top_k", "route_dim"):
            _checks.positive_int(name, getattr(self, name))
        if self.expert_width is not None:
            _checks.positive_int("expert_width", self.expert_width)
        if self.experts and self.expert_top_k > self.experts:
            raise ValueError(
                f"expert_top_k must be at most experts={self.experts}, got {self.expert_top_k}"
            )
