"""Teleported gradients: a scanned stack whose backward pass also jumps over layers."""

from physnet.teleport._gradients import gradients as gradients
from physnet.teleport._scan import scan as scan
