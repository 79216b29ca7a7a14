"""BK-Core: a decoder language model whose Hamiltonian mixes, scores and gates its tokens."""

from physnet.models.bk_core._cache import Cache as Cache
from physnet.models.bk_core._cache import LayerCache as LayerCache
from physnet.models.bk_core._cache import extend as extend
from physnet.models.bk_core._cache import fit_cache as fit_cache
from physnet.models.bk_core._cache import init_cache as init_cache
from physnet.models.bk_core._config import BKCoreConfig as BKCoreConfig
from physnet.models.bk_core._depth import isometry_penalty as isometry_penalty
from physnet.models.bk_core._depth import probe_layers as probe_layers
from physnet.models.bk_core._gates import allot as allot
from physnet.models.bk_core._gates import beyond as beyond
from physnet.models.bk_core._gates import gate_quantiles as gate_quantiles
from physnet.models.bk_core._gates import shares_of as shares_of
from physnet.models.bk_core._gates import with_shares as with_shares
from physnet.models.bk_core._generate import generate as generate
from physnet.models.bk_core._model import apply as apply
from physnet.models.bk_core._model import calibrate as calibrate
from physnet.models.bk_core._model import init as init
from physnet.models.bk_core._model import pairs as pairs
from physnet.models.bk_core._module import BKCore as BKCore
from physnet.models.bk_core._partition import partition as partition
from physnet.models.bk_core._refine import Refined as Refined
from physnet.models.bk_core._refine import Search as Search
from physnet.models.bk_core._refine import refine as refine
