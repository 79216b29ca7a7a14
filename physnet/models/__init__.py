"""Whole sequence models as pure functions.

Each module holds a frozen config, `init(config, key) -> params` and
`apply(config, params, tokens) -> logits`.
"""

from physnet.models import bk_core as bk_core
from physnet.models import transformer as transformer
from physnet.models._axes import Axes as Axes
