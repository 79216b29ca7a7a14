"""BK-Core: a decoder language model whose Hamiltonian mixes, scores and gates its tokens."""

from physnet.models.bk_core._cache import Cache as Cache
from physnet.models.bk_core._cache import LayerCache as LayerCache
from physnet.models.bk_core._cache import extend as extend
from physnet.models.bk_core._cache import fit_cache as fit_cache
from physnet.models.bk_core._cache import init_cache as init_cache
from physnet.models.bk_core._config import BKCoreConfig as BKCoreConfig
from physnet.models.bk_core._depth import isometry_penalty as isometry_penalty
from physnet.models.bk_core._depth import probe_layers as probe_layers
from physnet.models.bk_core._generate import generate as generate
from physnet.models.bk_core._model import apply as apply
from physnet.models.bk_core._model import calibrate as calibrate
from physnet.models.bk_core._model import init as init
from physnet.models.bk_core._model import pairs as pairs
from physnet.models.bk_core._module import BKCore as BKCore
