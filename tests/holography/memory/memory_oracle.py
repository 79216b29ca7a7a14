"""A boundary memory as lists of tokens, in float64: slow, written from its description alone."""

import dataclasses

import numpy as np


@dataclasses.dataclass(eq=False)
class Entry:
    key: np.ndarray
    value: np.ndarray
    mass: float
    position: float
    blocks: tuple[int, int] = (0, 0)  # of a slot: the first, and the one after the last


def merged(entries):
    """Mass-weighted means of entries; those of mass 0 say nothing."""
    mass = sum(x.mass for x in entries)
    share = [x.mass / mass if mass else 0.0 for x in entries]
    mean = [
        sum(w * getattr(x, name) for w, x in zip(share, entries, strict=True))
        for name in ("key", "value", "position")
    ]
    blocks = min(x.blocks[0] for x in entries), max(x.blocks[1] for x in entries)
    return Entry(mean[0], mean[1], mass, mean[2], blocks)


class Oracle:
    def __init__(self, config, threshold=0.0):
        self.config, self.threshold = config, threshold
        self.count, self.sinks, self.window, self.landmarks = 0, [], [], []
        self.levels = [[] for _ in range(config.levels)]  # oldest first

    def append(self, key, value, mass=1.0):
        token = Entry(np.asarray(key, float), np.asarray(value, float), float(mass), self.count)
        if self.count % self.config.block == 0 and self.count >= self.config.ring:
            self._leave(self.count // self.config.block - self.config.ring // self.config.block)
        (self.sinks if self.count < self.config.sinks else self.window).append(token)
        self.count += 1

    def _leave(self, block):
        size = self.config.block
        going = [x for x in self.window if x.position < (block + 1) * size]
        self.window = [x for x in self.window if x.position >= (block + 1) * size]
        fade = self.config.recency

        def worth(x):
            faded = x.mass if fade is None else x.mass * np.exp((x.position - self.count) / fade)
            return faded, x.position

        ranked = sorted(going + self.landmarks, key=worth, reverse=True)
        able = [x for x in ranked if x.mass > self.threshold]
        self.landmarks = able[: self.config.landmarks]
        rest = [x for x in ranked if x not in self.landmarks and x.mass > 0]
        if not self.levels:
            return
        like = (going + self.sinks)[0]
        zero = Entry(np.zeros_like(like.key), np.zeros_like(like.value), 0.0, 0.0)
        self._insert(0, dataclasses.replace(zero, blocks=(block, block + 1)))
        slots = [slot for level in self.levels[::-1] for slot in level]  # in their order in time
        given = [[slot] for slot in slots]
        for x in rest:
            own = next(
                i for i, s in enumerate(slots) if s.blocks[0] <= x.position // size < s.blocks[1]
            )
            near = range(max(own - 1, 0), min(own + 2, len(slots)))
            near = near if self.config.merge == "kernel" else [own]
            share = [self._kernel(slots[i], x.position) for i in near]
            for i, part in zip(near, share, strict=True):
                mass = x.mass * part / sum(share)
                given[i].append(dataclasses.replace(x, mass=mass, blocks=slots[i].blocks))
        new = iter([merged(entries) for entries in given])
        self.levels = [[next(new) for _ in level] for level in self.levels[::-1]][::-1]

    def _kernel(self, slot, position):
        """z / (z^2 + x^2): half the length of a slot, and the distance from its middle."""
        first, behind = (edge * self.config.block for edge in slot.blocks)
        half, away = (behind - first) / 2, position - (first + behind - 1) / 2
        return half / (half**2 + away**2)

    def _insert(self, level, slot):
        slots, top = self.levels[level], level == self.config.levels - 1
        slots.append(slot)
        if len(slots) > self.config.per_level:
            first, second = slots.pop(0), slots.pop(0)
            both = merged([first, second])
            if top:
                slots.insert(0, both)
            else:
                self._insert(level + 1, both)

    def entries(self):
        every = self.sinks + self.landmarks + [x for level in self.levels for x in level]
        return [x for x in every + self.window if x.mass > 0]

    def attend(self, query, scale):
        entries = self.entries()
        if not entries:
            return None
        logit = np.array([scale * query @ x.key + np.log(x.mass) for x in entries])
        weight = np.exp(logit - logit.max())
        return weight @ np.array([x.value for x in entries]) / weight.sum()
