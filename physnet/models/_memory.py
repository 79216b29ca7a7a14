"""What attention through a boundary memory costs, in the unit of gates."""

from physnet.holography import memory


def share(config: memory.Config, time: int) -> float:
    """Entries that a memory has room for, or the tokens so far, as a share of all causal pairs."""
    rows = config.sinks + config.ring + config.landmarks + config.slots
    short = min(time, rows)
    return (short * (short + 1) / 2 + (time - short) * rows) / (time * (time + 1) / 2)
