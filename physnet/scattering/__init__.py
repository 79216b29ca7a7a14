"""Scattering scores, the gates on them, and block schedules that make the gates pay."""

from physnet.scattering._classes import class_edges as class_edges
from physnet.scattering._classes import class_of as class_of
from physnet.scattering._classes import default_edges as default_edges
from physnet.scattering._gates import as_score as as_score
from physnet.scattering._gates import as_threshold as as_threshold
from physnet.scattering._gates import block_gate as block_gate
from physnet.scattering._gates import head_gate as head_gate
from physnet.scattering._gates import pair_gate as pair_gate
from physnet.scattering._gates import token_gate as token_gate
from physnet.scattering._order import block_order as block_order
from physnet.scattering._schedule import Schedule as Schedule
from physnet.scattering._schedule import schedule as schedule
from physnet.scattering._score import score as score
from physnet.scattering._threshold import threshold_for_density as threshold_for_density
