"""Boundary memory: keys and values of a sequence in entries that grow with its logarithm."""

from physnet.holography.memory._append import append as append
from physnet.holography.memory._append import extend as extend
from physnet.holography.memory._config import Config as Config
from physnet.holography.memory._config import configure as configure
from physnet.holography.memory._decode import decode as decode
from physnet.holography.memory._read import attend as attend
from physnet.holography.memory._state import Memory as Memory
from physnet.holography.memory._state import Slots as Slots
from physnet.holography.memory._state import init as init
from physnet.holography.memory._state import slots as slots
from physnet.holography.memory._training import attention as attention
