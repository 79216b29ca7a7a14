"""MERA: disentanglers and isometries, scale by scale, of signals and of spin chains."""

from physnet.holography.mera import quantum as quantum
from physnet.holography.mera._cone import light_cone as light_cone
from physnet.holography.mera._levels import Bulk as Bulk
from physnet.holography.mera._levels import Level as Level
from physnet.holography.mera._start import init as init
from physnet.holography.mera._start import principal as principal
from physnet.holography.mera._transform import decode as decode
from physnet.holography.mera._transform import encode as encode
