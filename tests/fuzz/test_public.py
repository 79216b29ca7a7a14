"""Every public function: a clear error, or a finite right answer of the documented shape and dtype.

`PHYSNET_FUZZ=300 pytest tests/fuzz` draws so many calls of each function, compiled, eager and with
64-bit types off too, instead of the few of the default profile, which are the same in every run.
"""

import importlib
import inspect
import os
import pkgutil

import fuzz_rules
import fuzz_table
import pytest
from hypothesis import HealthCheck, Phase, given, settings

import physnet

DEEP = int(os.environ.get("PHYSNET_FUZZ", "0"))
EXAMPLES, COMPILED = (DEEP, DEEP) if DEEP else (12, 4)
QUIET = dict(
    deadline=None, database=None, derandomize=True, suppress_health_check=list(HealthCheck)
)


def public_names():
    """Dotted names of all functions and classes that users can import, each once."""
    for info in pkgutil.walk_packages(physnet.__path__, "physnet."):
        if any(part.startswith("_") for part in info.name.split(".")):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            own = info.ispkg or getattr(value, "__module__", None) == info.name
            if own and name[0] != "_" and not inspect.ismodule(value):
                yield f"{info.name.removeprefix('physnet.')}.{name}"


def test_every_public_name_has_an_entry_or_a_reason():
    listed = {name.split(":")[0] for name in fuzz_table.ENTRIES} | set(fuzz_table.REASONS)
    assert sorted(set(public_names()) - listed) == []
    assert sorted(listed - set(public_names())) == []
    assert all(fuzz_table.REASONS.values())


def _fuzz(entry, ways, examples):
    @settings(max_examples=examples, phases=[Phase.generate] if not DEEP else list(Phase), **QUIET)
    @given(fuzz_rules.calls(entry, ways))
    def run(call):
        fuzz_rules.judge(entry, call)

    run()


@pytest.mark.parametrize("name", fuzz_table.ENTRIES)
def test_traced(name):
    entry = fuzz_table.ENTRIES[name]
    _fuzz(entry, ("eager",) if entry.host else ("trace",), EXAMPLES)


@pytest.mark.parametrize("name", [n for n, e in fuzz_table.ENTRIES.items() if not e.host])
def test_run(name):
    entry = fuzz_table.ENTRIES[name]
    if entry.dear and not DEEP:
        return
    _fuzz(entry, ("run", "eager") if DEEP else ("run",), COMPILED)
