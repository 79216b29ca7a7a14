"""Every public function: a clear error, or a finite right answer of the documented shape and dtype.

`PHYSNET_FUZZ=300 pytest tests/fuzz` draws so many calls of each function: traced, compiled, eager,
and with 64-bit types off, where the default profile draws a few, the same ones in every run.
"""

import importlib
import inspect
import os
import pkgutil

import fuzz_rules
import fuzz_table
import jax
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import physnet

DEEP = int(os.environ.get("PHYSNET_FUZZ", "0"))
ENTRIES = fuzz_table.ENTRIES
QUIET = {
    "deadline": None,
    "database": None,
    "derandomize": True,
    "suppress_health_check": list(HealthCheck),
    "phases": [Phase.generate],
}


def public_names():
    """Dotted names of all functions and classes that users can import."""
    for info in pkgutil.walk_packages(physnet.__path__, "physnet."):
        if any(part.startswith("_") for part in info.name.split(".")):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            own = info.ispkg or getattr(value, "__module__", None) == info.name
            if own and name[0] != "_" and not inspect.ismodule(value):
                yield f"{info.name.removeprefix('physnet.')}.{name}"


def test_every_public_name_has_an_entry_or_a_reason():
    listed = {name.partition(":")[0] for name in ENTRIES} | set(fuzz_table.REASONS)
    assert sorted(set(public_names()) - listed) == []
    assert sorted(listed - set(public_names())) == []
    assert all(fuzz_table.REASONS.values())


def fuzz(name, examples, *ways):
    """Judge so many calls of an entry."""

    @settings(max_examples=examples, **QUIET)
    @given(fuzz_rules.calls(ENTRIES[name], ways))
    def run(call):
        fuzz_rules.judge(ENTRIES[name], call)

    for wide in (True, False) if DEEP else (True,):
        with jax.enable_x64(wide):
            run()


@pytest.mark.parametrize("name", ENTRIES)
def test_arguments(name):
    entry = ENTRIES[name]
    way = "eager" if entry.host else "trace"
    fuzz(name, DEEP or (1 if entry.dear else 4), way)


@pytest.mark.parametrize(
    "name", [n for n, e in ENTRIES.items() if not e.host and (DEEP or e.quick)]
)
def test_values(name):
    fuzz(name, DEEP or 5, "run", *(("eager",) if DEEP else ()))
