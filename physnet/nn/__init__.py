"""Layers: pure functions over parameter dicts, and thin NNX shells of some."""

from physnet.nn import attention as attention
from physnet.nn import hamiltonian as hamiltonian
from physnet.nn import layers as layers
from physnet.nn import memory as memory
from physnet.nn import mera as mera
from physnet.nn import mixer as mixer
from physnet.nn import witten as witten
from physnet.nn._module import Calibrated as Calibrated
from physnet.nn._module import ParamsModule as ParamsModule
from physnet.nn._shells import ResolventMixer as ResolventMixer
from physnet.nn._shells import ScatteringAttention as ScatteringAttention
from physnet.nn.witten import WittenLayer as WittenLayer
