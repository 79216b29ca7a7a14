"""The Dyson equation over the depth of a network: propagators, probes, isometry, spectra."""

from physnet.dyson._born import BornInfo as BornInfo
from physnet.dyson._born import born_series as born_series
from physnet.dyson._equation import solve as solve
from physnet.dyson._isometry import isometry_penalty as isometry_penalty
from physnet.dyson._probes import LayerProbes as LayerProbes
from physnet.dyson._probes import probe_layers as probe_layers
from physnet.dyson._propagators import Propagator as Propagator
from physnet.dyson._propagators import apply as apply
from physnet.dyson._propagators import as_propagator as as_propagator
from physnet.dyson._propagators import chain_propagator as chain_propagator
from physnet.dyson._propagators import dense as dense
from physnet.dyson._spectrum import Spectrum as Spectrum
from physnet.dyson._spectrum import gradient_norms as gradient_norms
from physnet.dyson._spectrum import spectrum as spectrum
