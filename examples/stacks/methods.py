"""What is compared: a first value, a way to a gradient, and an optimiser."""

import dataclasses
from typing import Literal

Way = Literal["plain", "dyson", "chain", "ghost", "gated", "highway", "truncated", "staged"]
Start = Literal["gaussian", "orthogonal", "matched", "deepnorm"]


@dataclasses.dataclass(frozen=True)
class Method:
    """One row. `against` names the row without teleportation that it is compared with."""

    label: str
    way: Way = "plain"
    optimiser: Literal["sgd", "adam", "warmed", "normalised", "lookahead"] = "adam"
    start: Start = "gaussian"
    retract: bool = False
    isometry: float = 0.0
    against: str | None = None


METHODS = {
    "sgd": Method("backpropagation, SGD with momentum", optimiser="sgd"),
    "adam": Method("backpropagation, Adam"),
    "warmed": Method("backpropagation, Adam, slow start", optimiser="warmed"),
    "normalised": Method("gradients normalised a layer", optimiser="normalised"),
    "orthogonal": Method("orthogonal start, Adam", start="orthogonal"),
    "retracted": Method("orthogonal start, retraction", start="orthogonal", retract=True),
    "isometry": Method("isometry penalty, weight 1 / d", isometry=1.0),
    "dyson": Method("teleport: dyson", "dyson", against="adam"),
    "chain": Method("teleport: chain", "chain", against="adam"),
    "ghost": Method("teleport: ghost, annealed", "ghost", against="adam"),
    "gated": Method("teleport: gated", "gated", against="adam"),
    "lookahead": Method("teleported look-ahead", "dyson", "lookahead", against="sgd"),
    "normalised-chain": Method(
        "normalised a layer + chain", "chain", "normalised", against="normalised"
    ),
    "orthogonal-chain": Method(
        "orthogonal start + chain", "chain", start="orthogonal", against="orthogonal"
    ),
    "orthogonal-gated": Method(
        "orthogonal start + gated", "gated", start="orthogonal", against="orthogonal"
    ),
    "orthogonal-dyson": Method(
        "orthogonal start + dyson", "dyson", start="orthogonal", against="orthogonal"
    ),
    "orthogonal-warmed": Method(
        "orthogonal start, slow start", "plain", "warmed", start="orthogonal"
    ),
    "orthogonal-warmed-dyson": Method(
        "the same + dyson", "dyson", "warmed", start="orthogonal", against="orthogonal-warmed"
    ),
    "matched": Method("Gaussian of the orthogonal start's norms", start="matched"),
    "matched-dyson": Method("the same + dyson", "dyson", start="matched", against="matched"),
    "deepnorm": Method("DeepNorm, Adam", start="deepnorm"),
    "deepnorm-dyson": Method("DeepNorm + dyson", "dyson", start="deepnorm", against="deepnorm"),
    "warmed-dyson": Method("slow start + dyson", "dyson", "warmed", against="warmed"),
    "highway": Method("Highway-BP, order 2", "highway", against="adam"),
    "truncated": Method("truncated after one stage", "truncated"),
    "staged": Method("truncated, far part teleported", "staged", against="truncated"),
}
