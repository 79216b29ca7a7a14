"""A plain pre-norm decoder transformer (the GPT recipe): the baseline of the language models."""

from physnet.models.transformer._cache import Cache as Cache
from physnet.models.transformer._cache import extend as extend
from physnet.models.transformer._cache import init_cache as init_cache
from physnet.models.transformer._config import TransformerConfig as TransformerConfig
from physnet.models.transformer._model import apply as apply
from physnet.models.transformer._model import init as init
from physnet.models.transformer._model import partition as partition
