"""A matrix plus a perturbation of low rank, multiplied without ever adding the two."""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Perturbed:
    r"""A weight matrix W + L R^T, what a particle with noise of low rank is made of.

    Under `vmap` over K particles W (m, n) is one and the same, and L (m, r), R (n, r) are each
    particle's own: x @ w is x W + (x L) R^T, so that K products share one W and K matrices are
    never built. What loss functions write as for arrays:

        x @ w, w @ x             the two products apart
        w[rows]                  an embedding's lookup: the rows W[rows] + L[rows] R^T, an array
        w[layer], lax.scan       a matrix of a stack, itself a `Perturbed`
        w.T, w.mT, w.astype, -w, c * w, w / c (c a number) `Perturbed` again
        w.shape, w.dtype, w.ndim, w.size, len(w)
        w + x, w * x, w ** 2, abs(w), w > x, w == x, ...   the sum, an array: K matrices

    All else needs an array, `w.dense()`: jnp functions (`jnp.dot(x, w)`, `jnp.einsum`) raise a
    TypeError. (There is no `__jax_array__`: JAX's `x @ w` would take the dense matrix by it.)
    Functions of trees, such as `jax.tree.map` and norms of all parameters, see the three arrays:
    map with `is_leaf=lambda x: isinstance(x, Perturbed)`, or evaluate with materialise=True.

    Attributes:
        weight: W, (..., m, n).
        left: L, (..., m, r), the step's size in it.
        right: R, (..., n, r).

    Example:
        >>> import jax.numpy as jnp
        >>> w = Perturbed(jnp.eye(2), jnp.array([[0.5], [0.0]]), jnp.array([[0.0], [1.0]]))
        >>> print(jnp.array([1.0, 2.0]) @ w)
        [1.  2.5]
        >>> print(w[0], w.T.dense()[1])
        [1.  0.5] [0.5 1. ]

    References:
        Sarkar et al., "Evolution strategies at the hyperscale", arXiv:2511.16652 (2025), for
        perturbations of low rank that are never added to the weights.
    """

    weight: Any  # without arrays where trees are compared, so no shapes here
    left: Any
    right: Any

    __array_ufunc__ = None  # NumPy arrays leave operators to this class

    def dense(self) -> Shaped[Array, "... m n"]:
        """W + L R^T, as an array."""
        return self.weight + self.left @ jnp.matrix_transpose(self.right)

    @property
    def shape(self) -> tuple[int, ...]:
        return jnp.shape(self.weight)

    @property
    def dtype(self) -> np.dtype:
        return self.weight.dtype

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return int(np.prod(self.shape))

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))  # the protocol of sequences would never end

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def mT(self) -> "Perturbed":
        return Perturbed(jnp.matrix_transpose(self.weight), self.right, self.left)

    @property
    def T(self) -> Any:
        return self.mT if self.ndim == 2 else self.dense().T

    def astype(self, dtype: Any) -> "Perturbed":
        return jax.tree.map(lambda x: x.astype(dtype), self)

    def __getitem__(self, index: Any) -> Any:
        several = isinstance(index, tuple | slice) or index is None or index is Ellipsis
        if several or jnp.asarray(index).dtype == bool:
            return self.dense()[index]
        rows = self.weight[index], self.left[index]
        if self.ndim > 2:
            return Perturbed(*rows, self.right[index])
        return rows[0] + rows[1] @ self.right.T

    def __matmul__(self, x: Any) -> Array:
        x = _array(x)
        if x.ndim == 1:
            return (self @ x[:, None])[..., 0]
        return self.weight @ x + self.left @ (jnp.matrix_transpose(self.right) @ x)

    def __rmatmul__(self, x: Any) -> Array:
        x = _array(x)
        if x.ndim == 1 and self.ndim > 2:
            return (x[None] @ self)[..., 0, :]
        return x @ self.weight + (x @ self.left) @ jnp.matrix_transpose(self.right)

    def __mul__(self, other: Any) -> Any:
        if _number(other):
            return Perturbed(self.weight * other, self.left * other, self.right)
        return self.dense() * _array(other)

    __rmul__ = __mul__

    def __truediv__(self, other: Any) -> Any:
        if _number(other):
            return Perturbed(self.weight / other, self.left / other, self.right)
        return self.dense() / _array(other)

    def __neg__(self) -> "Perturbed":
        return Perturbed(-self.weight, -self.left, self.right)

    def __rtruediv__(self, other: Any) -> Array:
        return other / self.dense()

    def __add__(self, other: Any) -> Array:
        return self.dense() + _array(other)

    __radd__ = __add__

    def __sub__(self, other: Any) -> Array:
        return self.dense() - _array(other)

    def __rsub__(self, other: Any) -> Array:
        return _array(other) - self.dense()

    def __pow__(self, other: Any) -> Array:
        return self.dense() ** _array(other)

    def __abs__(self) -> Array:
        return jnp.abs(self.dense())

    def __lt__(self, other: Any) -> Array:
        return self.dense() < _array(other)

    def __le__(self, other: Any) -> Array:
        return self.dense() <= _array(other)

    def __gt__(self, other: Any) -> Array:
        return self.dense() > _array(other)

    def __ge__(self, other: Any) -> Array:
        return self.dense() >= _array(other)

    def __eq__(self, other: Any) -> Any:
        return self.dense() == _array(other)

    def __ne__(self, other: Any) -> Any:
        return self.dense() != _array(other)

    __hash__ = None  # type: ignore[assignment]  # as of arrays

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"a matrix with a perturbation of low rank has no {name!r}: take the array, .dense(), "
            "or evaluate the loss function with materialise=True"
        )


def _number(x: Any) -> bool:
    """Whether it scales a matrix as a whole."""
    return not isinstance(x, Perturbed) and jnp.ndim(x) == 0


def _array(x: Any) -> Any:
    return x.dense() if isinstance(x, Perturbed) else x
