"""PPMd, a compressor that predicts a byte from the last six: a yardstick that nobody trains."""

import importlib.util
import math

ORDER = 6
MEMORY = 1 << 26


def installed() -> bool:
    return importlib.util.find_spec("pyppmd") is not None


def nats(train: str, validation: str) -> float:
    """Nats for each character of `validation` that PPMd spends on it after reading `train`.

    It goes on adapting to the held-out text, which the models do not: the difference between
    the compressed lengths of both texts and of the first alone, so the start costs nothing.
    """
    import pyppmd

    def compressed(text: str) -> int:
        data = text.encode("utf-8")
        return len(pyppmd.compress(data, max_order=ORDER, mem_size=MEMORY, variant="H"))

    spent = compressed(train + validation) - compressed(train)
    return 8.0 * math.log(2.0) * spent / len(validation)
