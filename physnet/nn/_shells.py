"""NNX shells over the layer functions."""

from flax import nnx
from jaxtyping import Array, Float

from physnet import _checks
from physnet.nn import attention, mixer
from physnet.nn._module import ParamsModule


class ResolventMixer(ParamsModule):
    """`mixer.apply` as a module: (B, T, W) to the same shape, causal, O(T).

    Args:
        width: W, a multiple of 2 * heads.
        heads: chains.
        learn_hopping: as in `mixer.init`.
        groups: as in `mixer.apply`; divides the width.
        rngs: Flax random streams; `params` is used.

    Example:
        >>> import jax.numpy as jnp
        >>> from flax import nnx
        >>> layer = ResolventMixer(32, heads=4, rngs=nnx.Rngs(0))
        >>> nnx.jit(lambda layer, x: layer(x))(layer, jnp.ones((2, 5, 32))).shape
        (2, 5, 32)
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int = 16,
        learn_hopping: bool = False,
        groups: int = 4,
        rngs: nnx.Rngs,
    ) -> None:
        width, groups = (
            _checks.positive_int(name, size)
            for name, size in (("width", width), ("groups", groups))
        )
        if width % groups:
            raise ValueError(f"groups must divide the width {width}, got {groups}")
        self.groups = groups
        key = rngs.params()
        super().__init__(mixer.init(key, width, heads=heads, learn_hopping=learn_hopping))

    def __call__(self, x: Float[Array, "B T W"]) -> Float[Array, "B T W"]:
        return mixer.apply(self.tree(), x, groups=self.groups).output

    def openness(self, x: Float[Array, "B T W"]) -> Float[Array, "B T H"]:
        """-eta Im gL of each chain, in [0, 1]: what gates a `ScatteringAttention` beside it."""
        return mixer.apply(self.tree(), x, groups=self.groups).openness


class ScatteringAttention(ParamsModule):
    """`attention.apply` as a module, gated by the openness of chains that another layer has.

    Args:
        width: W, a multiple of 2 * heads.
        heads: N.
        local_window: pairs nearer than this always take part.
        soft_gate: as in `attention.init`.
        rngs: Flax random streams; `params` is used.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> mix = ResolventMixer(32, heads=4, rngs=nnx.Rngs(0))
        >>> attend = ScatteringAttention(32, heads=2, rngs=nnx.Rngs(1))
        >>> x = jax.random.normal(jax.random.key(0), (2, 24, 32))
        >>> openness = nnx.jit(lambda mix: mix.openness(x))(mix)
        >>> attend.calibrate(openness, density=0.5)
        >>> nnx.jit(lambda attend: attend(x, openness))(attend).shape
        (2, 24, 32)
    """

    def __init__(
        self,
        width: int,
        *,
        heads: int = 4,
        local_window: int = 8,
        soft_gate: bool = False,
        rngs: nnx.Rngs,
    ) -> None:
        self.local_window = local_window
        super().__init__(attention.init(rngs.params(), width, heads=heads, soft_gate=soft_gate))

    def __call__(
        self, x: Float[Array, "B T W"], openness: Float[Array, "B T H"]
    ) -> Float[Array, "B T W"]:
        params = self.tree()
        score = attention.score(params, openness)
        return attention.apply(params, x, score, local_window=self.local_window)

    def calibrate(self, openness: Float[Array, "B T H"], *, density: float) -> None:
        """Set the gate for a share of causal pairs, from a sample."""
        self.replace(
            attention.calibrate(
                self.tree(), openness, density=density, local_window=self.local_window
            )
        )
