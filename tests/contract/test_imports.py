"""What importing physnet costs and touches, and which module may import which."""

import ast
import graphlib
import json
import subprocess
import sys

import pytest

# Nothing of these may come with `import physnet`, beyond what jax itself brings.
SLOW = {"flax", "optax", "orbax", "matplotlib", "scipy", "rich", "tyro", "tensorboardX", "beartype"}
SLOW |= {"torch", "triton", "jax_triton", "physnet_kernels"}

PROBE = """
import json, pkgutil, sys, time

start = time.process_time()
import jax
jax_seconds = time.process_time() - start
with_jax = set(sys.modules)
settings = dict(jax.config.values)

start = time.process_time()
import physnet
own_seconds = time.process_time() - start
core = sorted({name.partition(".")[0] for name in set(sys.modules) - with_jax})

import physnet_kernels
names = [
    module.name
    for package in (physnet, physnet_kernels)
    for module in pkgutil.walk_packages(package.__path__, package.__name__ + ".")
]
for name in names:
    try:
        __import__(name)
    except ModuleNotFoundError as error:  # kernels are imported where they run
        if not name.startswith("physnet_kernels") or error.name not in ("triton", "jax_triton"):
            raise
# Modules of jax may register settings of their own; none that was there may change.
same_settings = settings.items() <= dict(jax.config.values).items()
jax.config.update("jax_num_cpu_devices", 3)  # raises once a backend exists
print(json.dumps({
    "seconds": [jax_seconds, own_seconds], "core": core, "names": names,
    "same_settings": same_settings, "devices": jax.device_count("cpu"),
}))
"""


def _in_a_fresh_process(source: str) -> str:
    command = [sys.executable, "-W", "error", "-c", source]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


@pytest.fixture(scope="module")
def probe():
    return json.loads(_in_a_fresh_process(PROBE))


def test_import_physnet_brings_nothing_slow(probe):
    assert not SLOW & set(probe["core"])
    others = set(probe["core"]) - {"physnet", "jax", "jaxtyping", "numpy"}
    assert others <= sys.stdlib_module_names


def test_import_physnet_costs_less_than_half_of_jax(probe):
    jax_seconds, own_seconds = probe["seconds"]  # of one process and its CPU time: load drops out
    assert own_seconds < jax_seconds / 2


def test_every_module_imports(probe, modules):
    assert set(probe["names"]) == set(modules) - {"physnet", "physnet_kernels"}


def test_importing_leaves_jax_alone(probe):
    assert probe["same_settings"]
    assert probe["devices"] == 3  # no backend had started: the number could still be set


def test_submodules_are_attributes_of_physnet():
    out = _in_a_fresh_process(
        "import physnet, sys\n"
        "print('flax' in sys.modules, physnet.greens.__name__)\n"
        "print(physnet.nn.mixer.__name__, physnet.models.__name__)\n"
        "from physnet import models, nn\n"
        "print(models is physnet.models, {'models', 'nn'} <= set(dir(physnet)))\n"
        "try: physnet.gremlins\n"
        "except AttributeError as error: print(error)\n"
    )
    assert out.splitlines() == [
        "False physnet.greens",
        "physnet.nn.mixer physnet.models",
        "True True",
        "module 'physnet' has no attribute 'gremlins'",
    ]


def _part(module: str) -> str:
    """The part of the library that a module belongs to: "greens", "nn", "_checks", ..."""
    return module.split(".")[1]


def _rank(part: str) -> int:
    """Imports go to a lower rank, or stay in it."""
    shared, foundations = ("_checks", "_dispatch", "_dtypes", "_varying"), ("greens", "hyperbolic")
    if part in shared:
        return 0
    if part in foundations:
        return 1
    return {"nn": 3, "models": 4}.get(part, 2)  # 2: a mechanism


def _between_parts(imports):
    """(importer, target, part of the one, part of the other), where the two differ."""
    for importer, target in imports:
        if importer.startswith("physnet.") and target.startswith("physnet."):
            here, there = _part(importer), _part(target)
            if here != there:
                yield importer, target, here, there


def test_imports_run_downwards_and_in_no_circle(imports):
    graph = {}
    for importer, target, here, there in _between_parts(imports):
        assert _rank(there) <= _rank(here), f"{importer} imports {target}"
        graph.setdefault(here, set()).add(there)
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises on a circle
    assert order.index("greens") < order.index("scattering") < order.index("attention")
    assert order.index("attention") < order.index("nn") < order.index("models")


def test_no_mechanism_uses_private_names_of_another(imports, modules):
    for importer, target, *_ in _between_parts(imports):
        private = any(name.startswith("_") for name in target.split(".")[2:])
        assert not private, f"{importer} imports {target}"
    for name, tree in modules.items():
        borrowed = {target.split(".")[-1] for importer, target in imports if importer == name}
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                dunder = node.attr.startswith("__")
                private = node.attr.startswith("_") and not dunder and node.value.id in borrowed
                assert not private, f"{name} uses {node.value.id}.{node.attr}"


def test_kernels_know_nothing_of_physnet(imports):
    for importer, target in imports:
        if importer.startswith("physnet_kernels"):
            assert target.split(".")[0] != "physnet", f"{importer} imports {target}"


def test_only_the_dispatcher_names_the_kernels(modules, imports):
    allowed = "physnet._dispatch"
    for importer, target in imports:
        if target.startswith("physnet_kernels") and not importer.startswith("physnet_kernels"):
            assert importer == allowed, f"{importer} imports {target}"
    for name, tree in modules.items():
        if name.startswith("physnet_kernels") or name == allowed:
            continue
        for node in ast.walk(tree):  # `importlib.import_module("...")` would be a string
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert not node.value.startswith("physnet_kernels"), f"{name} names the kernels"


def test_only_public_jax(imports):
    for importer, target in imports:
        path = target.split(".")
        private = path[0] in ("jax", "jaxlib", "flax") and any(p.startswith("_") for p in path)
        assert not private, f"{importer} imports {target}"


def test_no_import_error_is_swallowed(modules):
    for name, tree in modules.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.ExceptHandler):
                silent = all(isinstance(line, ast.Pass) for line in node.body)
                assert not silent, f"{name}, line {node.lineno}: except ...: pass"
