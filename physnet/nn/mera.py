"""A MERA as a module: a signal to its scales and back, by matrices on the Stiefel manifold."""

from typing import Literal

from flax import nnx
from jaxtyping import Array, Float

from physnet.holography import mera

Boundary = Literal["open", "periodic"]
Start = Literal["mean", "identity", "random"]


class MERA(nnx.Module):
    """`holography.mera` as a module: (..., N, W) to its scales; `decode` leads back.

    Every `nnx.Param` is a stack of matrices with orthonormal columns: train them with
    `optim.stiefel_adam`, and keep weight decay off them.

    Args:
        width: W, features of a site.
        levels: how often two sites become one.
        up: features of a site above each level; None keeps W.
        complements: keep what the isometries leave out.
        layers: layers of disentanglers a level.
        start: "mean" (Haar wavelets), "identity" or "random" (uniform).
        boundary: "open" or "periodic".
        rngs: Flax random streams; `params` is used.

    Example:
        >>> import jax
        >>> from flax import nnx
        >>> layer = MERA(4, levels=3, start="random", rngs=nnx.Rngs(0))
        >>> x = jax.random.normal(jax.random.key(0), (2, 16, 4))
        >>> bulk = nnx.jit(lambda layer, x: layer(x))(layer, x)
        >>> back = nnx.jit(lambda layer, bulk: layer.decode(bulk))(layer, bulk)
        >>> bulk.top.shape, f"{abs(back - x).max() < 1e-5}"
        ((2, 2, 4), 'True')
    """

    def __init__(
        self,
        width: int,
        *,
        levels: int,
        up: int | tuple[int, ...] | None = None,
        complements: bool = True,
        layers: int = 1,
        start: Start = "mean",
        boundary: Boundary = "open",
        rngs: nnx.Rngs,
    ) -> None:
        made = mera.init(
            rngs.params(),
            width,
            levels=levels,
            up=up,
            complements=complements,
            layers=layers,
            start=start,
        )
        self.boundary: Boundary = boundary
        self.up = tuple(level.up for level in made)
        self.disentanglers = nnx.List([nnx.Param(level.disentanglers) for level in made])
        self.isometries = nnx.List([nnx.Param(level.isometry) for level in made])

    def levels(self) -> tuple[mera.Level, ...]:
        """The levels that the functions of `holography.mera` take."""
        pairs = zip(self.disentanglers, self.isometries, self.up, strict=True)
        return tuple(mera.Level(turns[...], isometry[...], up) for turns, isometry, up in pairs)

    def __call__(self, signal: Float[Array, "*b n w"]) -> mera.Bulk:
        return mera.encode(self.levels(), signal, boundary=self.boundary)

    def decode(self, bulk: mera.Bulk, *, sites: int | None = None) -> Float[Array, "*b n w"]:
        """Back to a signal; None for a level's details stands for zeros."""
        return mera.decode(self.levels(), bulk, sites=sites, boundary=self.boundary)
