"""What a report of a benchmark says of the device that it ran on."""

import platform
import sys
from importlib import metadata

import jax


def described(*packages: str) -> dict[str, str]:
    """Device, its platform, the command, and the versions of Python, jax and `packages`."""
    device = jax.devices()[0]
    return {
        "device": device.device_kind,
        "command": " ".join(sys.argv),
        "platform": device.client.platform_version.splitlines()[0],
        "jax": jax.__version__,
        "python": platform.python_version(),
        **{name: metadata.version(name) for name in packages},
    }
