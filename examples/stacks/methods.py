"""What is compared: a first value, a way to a gradient, and an optimiser."""

import dataclasses
from typing import Literal

Way = Literal["plain", "dyson", "chain", "ghost", "gated", "highway", "truncated", "staged"]


@dataclasses.dataclass(frozen=True)
class Method:
    """One row. `against` names the row without teleportation that it is compared with."""

    label: str
    way: Way = "plain"
    optimiser: Literal["sgd", "adam", "warmed", "normalised", "lookahead"] = "adam"
    orthogonal: bool = False
    retract: bool = False
    isometry: float = 0.0
    against: str | None = None


METHODS = {
    "sgd": Method("backpropagation, SGD with momentum", optimiser="sgd"),
    "adam": Method("backpropagation, Adam"),
    "warmed": Method("backpropagation, Adam, slow start", optimiser="warmed"),
    "normalised": Method("gradients normalised a layer", optimiser="normalised"),
    "orthogonal": Method("orthogonal start, Adam", orthogonal=True),
    "retracted": Method("orthogonal start, retraction", orthogonal=True, retract=True),
    "isometry": Method("isometry penalty", isometry=1.0),
    "dyson": Method("teleport: dyson", "dyson", against="adam"),
    "chain": Method("teleport: chain", "chain", against="adam"),
    "ghost": Method("teleport: ghost, annealed", "ghost", against="adam"),
    "gated": Method("teleport: gated", "gated", against="adam"),
    "lookahead": Method("teleported look-ahead", "dyson", "lookahead", against="sgd"),
    "normalised-chain": Method(
        "normalised a layer + chain", "chain", "normalised", against="normalised"
    ),
    "orthogonal-chain": Method(
        "orthogonal start + chain", "chain", orthogonal=True, against="orthogonal"
    ),
    "orthogonal-gated": Method(
        "orthogonal start + gated", "gated", orthogonal=True, against="orthogonal"
    ),
    "orthogonal-dyson": Method(
        "orthogonal start + dyson", "dyson", orthogonal=True, against="orthogonal"
    ),
    "orthogonal-warmed": Method("orthogonal start, slow start", "plain", "warmed", orthogonal=True),
    "orthogonal-warmed-dyson": Method(
        "the same + dyson", "dyson", "warmed", orthogonal=True, against="orthogonal-warmed"
    ),
    "warmed-dyson": Method("slow start + dyson", "dyson", "warmed", against="warmed"),
    "highway": Method("Highway-BP, order 2", "highway", against="adam"),
    "truncated": Method("truncated after one stage", "truncated"),
    "staged": Method("truncated, far part teleported", "staged", against="truncated"),
}
