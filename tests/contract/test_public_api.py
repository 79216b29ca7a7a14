"""The names that users rely on: there, documented, typed, and no other exports beside them."""

import ast
import dataclasses
import importlib
import inspect
import re

import pytest

PUBLIC = {
    "physnet": "attention birman_schwinger dyson greens holography hyperbolic models moe nn optim "
    "scattering superposition symplectic teleport time_reversal",
    "physnet.holography": "codes memory mera bulk_to_boundary bulk_to_boundary_fourier "
    "conformal_dimension mass_squared encode decode all_levels level_sizes to_bulk to_boundary "
    "causal_to_bulk causal_to_boundary exponentials Exponentials three_point four_point contact "
    "protect recover Recovery surface_slots surface_encode surface_decode entanglement_entropy "
    "gram_entropy",
    "physnet.holography.memory": "Config configure Memory Slots init append extend attend slots "
    "decode attention",
    "physnet.holography.codes": "Code Pauli Stabilisers Threshold decode encode erasure_recovery "
    "erasure_threshold erasure_tolerance happy_code logical_operators perfect_tensor recoverable "
    "stabilisers",
    "physnet.holography.mera": "Level Bulk init principal encode decode light_cone quantum",
    "physnet.holography.mera.quantum": "Chain init ising state expectation energy",
    "physnet.superposition": "distill path_integral",
    "physnet.superposition.path_integral": "State Info init step ask tell defaults weights Weights "
    "Strategy StrategyParams StrategyState gradient Perturbed sharded_step",
    "physnet.superposition.distill": "mixture_kl reverse_mixture_kl mixture_log_probs "
    "ensemble_log_probs Losses objective State init step fit Collapse boltzmann_weights collapse",
    "physnet.symplectic": "Info Lattice LatticeState check coupled_scan echo energy inverse "
    "leapfrog reversible_scan",
    "physnet.symplectic.echo": "check_conservative gradient finite_gradient",
    "physnet.time_reversal": "reverse_trajectory reverse_sequence consistency_loss",
    "physnet.greens": "diagonal left ldos window propagate solve resolvent lanczos ldos_lanczos "
    "recurrence PropagateState",
    "physnet.birman_schwinger": "operator log_determinant spectral_shift hilbert_schmidt_norm",
    "physnet.dyson": "solve born_series BornInfo Propagator as_propagator chain_propagator apply "
    "dense LayerProbes probe_layers isometry_penalty Spectrum gradient_norms spectrum",
    "physnet.scattering": "score pair_gate token_gate head_gate block_gate threshold_for_density "
    "schedule Schedule class_edges class_of default_edges block_order as_score as_threshold",
    "physnet.hyperbolic": "klein lorentz poincare polar tree frechet_mean kmeans Clusters",
    "physnet.hyperbolic.poincare": "distance expmap logmap expmap0 logmap0 mobius_add transport "
    "project midpoint",
    "physnet.hyperbolic.klein": "distance project from_poincare to_poincare from_tangent "
    "to_tangent midpoint",
    "physnet.hyperbolic.lorentz": "distance expmap logmap expmap0 logmap0 transport project inner "
    "from_poincare to_poincare from_tangent to_tangent midpoint",
    "physnet.hyperbolic.tree": "build search Tree Found",
    "physnet.hyperbolic.polar": "distance pairwise to_poincare from_poincare midpoint",
    "physnet.attention": "scattering_attention block_sparse_attention",
    "physnet.moe": "route gate Routing apply ball_expert load Load",
    "physnet.optim": "riemannian_adam riemannian_sgd ema_midpoint RiemannianAdamState "
    "RiemannianSGDState EmaMidpoint EmaMidpointState teleported_lookahead "
    "TeleportedLookaheadState polar_factor orthogonal_initializer orthogonal_retraction "
    "imaginary_time ImaginaryTimeState Products Rows categorical_rows likelihood_rows "
    "local_energies wavefunction_rows fisher_adam FisherAdamState OuterScores outer_scores "
    "stiefel_adam StiefelAdamState stiefel_sgd StiefelSGDState "
    "path_integral_gradients PathIntegralGradientsState",
    "physnet.teleport": "scan gradients",
    "physnet.nn": "ResolventMixer ScatteringAttention ParamsModule Calibrated WittenLayer "
    "attention hamiltonian layers memory mera mixer witten",
    "physnet.nn.layers": "linear rms_norm rotary dropout",
    "physnet.nn.mixer": "init hamiltonian apply Mixed",
    "physnet.nn.attention": "init score project softened apply calibrate Projected",
    "physnet.nn.memory": "init apply extend over_heads",
    "physnet.nn.witten": "init apply extend State WittenLayer",
    "physnet.nn.mera": "MERA",
    "physnet.nn.hamiltonian": "init apply positions",
    "physnet.models": "bk_core transformer Axes",
    "physnet.models.bk_core": "BKCore BKCoreConfig init apply partition calibrate pairs generate "
    "extend init_cache fit_cache Cache LayerCache isometry_penalty probe_layers refine Refined "
    "Search allot beyond gate_quantiles shares_of with_shares",
    "physnet.models.transformer": "TransformerConfig init apply partition init_cache extend Cache",
}
NAMES = [(module, name) for module, names in PUBLIC.items() for name in names.split()]

# In this order, each at most once.
SECTIONS = ("Args", "Attributes", "Returns", "Raises", "Example", "References")

FUNCTIONS = [
    pytest.param(value, id=f"{module}.{name}")
    for module, name in NAMES
    if inspect.isfunction(value := getattr(importlib.import_module(module), name))
]
functions = pytest.mark.parametrize("function", FUNCTIONS)


def _arrays(annotation) -> bool:
    """Whether an annotation, or a member of a union, is a jaxtyping shape."""
    members = getattr(annotation, "__args__", ())
    return hasattr(annotation, "dim_str") or any(_arrays(member) for member in members)


def test_every_public_module_is_listed(modules):
    names = [name for name in modules if name.split(".")[0] == "physnet"]
    assert set(PUBLIC) == {name for name in names if not any(p[0] == "_" for p in name.split("."))}


@pytest.mark.parametrize(("module", "name"), NAMES)
def test_name_is_there_and_documented(module, name):
    value = getattr(importlib.import_module(module), name)
    doc = inspect.getdoc(value)
    assert doc
    assert doc.splitlines()[0].rstrip().endswith(".")
    if inspect.isclass(value):
        assert value.__doc__  # its own, not a base's


PACKAGES = [
    name
    for name in PUBLIC
    if name != "physnet" and hasattr(importlib.import_module(name), "__path__")
]


@pytest.mark.parametrize("module", PACKAGES)
def test_exports_are_these_and_no_others(module):
    source = inspect.getsource(importlib.import_module(module))
    exported = set(re.findall(r"^from \S+ import (\w+) as \1$", source, re.MULTILINE))
    assert exported == set(PUBLIC[module].split())


@functions
def test_function_says_what_it_takes_and_returns(function):
    found = re.findall(rf"^({'|'.join(SECTIONS)}):", inspect.getdoc(function), re.MULTILINE)
    assert found == sorted(set(found), key=SECTIONS.index)
    assert "Args" in found
    assert {"Returns", "Example"} & set(found)


@functions
def test_signature_has_arrays_first_and_options_by_keyword(function):
    signature = inspect.signature(function)
    assert signature.return_annotation is not signature.empty
    for parameter in signature.parameters.values():
        assert parameter.annotation is not parameter.empty, parameter
        if parameter.kind is parameter.VAR_POSITIONAL:  # what a user's function takes besides
            assert parameter.name == "args"
            continue
        assert parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        optional = parameter.default is not parameter.empty
        if parameter.name in ("input", "inputs", "score", "scores", "weights"):  # arrays, or none
            continue
        assert not optional or parameter.kind is parameter.KEYWORD_ONLY, parameter


# Trees of parameters or caches have no one shape; the others take and give plain numbers.
SHAPELESS = (
    "init",
    "hamiltonian",
    "init_cache",
    "fit_cache",
    "check",
    "configure",
    "slots",
    "surface_slots",
    "partition",
)
SHAPELESS += ("step", "ask", "defaults", "gradient", "sharded_step")  # trees of parameters too
SHAPELESS += ("all_levels", "level_sizes", "exponentials", "erasure_threshold", "happy_code")


@functions
def test_signature_gives_a_shape(function):
    signature = inspect.signature(function)
    annotations = [parameter.annotation for parameter in signature.parameters.values()]
    annotations.append(signature.return_annotation)
    assert function.__name__ in SHAPELESS or any(map(_arrays, annotations))


@pytest.mark.parametrize("config", ["bk_core.BKCoreConfig", "transformer.TransformerConfig"])
def test_configs_are_frozen_and_hashable(config):
    module, name = config.split(".")
    make = getattr(importlib.import_module(f"physnet.models.{module}"), name)
    assert hash(make(vocab_size=65)) == hash(make(vocab_size=65))
    with pytest.raises(dataclasses.FrozenInstanceError):
        make(vocab_size=65).width = 1


def _packages(modules):
    """Names of packages; kernels need not be importable for that."""
    return [name for name in modules if any(other.startswith(f"{name}.") for other in modules)]


def test_packages_export_explicitly_and_leak_nothing(modules):
    packages = _packages(modules)
    assert len(packages) >= 7
    for name in packages:
        package, tree = importlib.import_module(name), modules[name]
        exported = {
            alias.name
            for node in ast.walk(tree)
            if isinstance(node, ast.ImportFrom)
            for alias in node.names
            if alias.asname == alias.name
        }
        exported |= {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
        public = {key for key in dir(package) if not key.startswith("_")}
        public.discard("jaxtyping")  # put there by the import hook of the tests
        submodules = {key for key in public if f"{name}.{key}" in modules}
        assert public - submodules == {key for key in exported if key[0] != "_"} - submodules, name
        assert not hasattr(package, "__all__"), name


def test_plain_modules_export_nothing_that_they_import(modules):
    packages = _packages(modules)
    for name, tree in modules.items():
        assigned = [node for node in tree.body if isinstance(node, ast.Assign | ast.AnnAssign)]
        targets = [t for node in assigned for t in getattr(node, "targets", [node])]
        assert not any(getattr(t, "id", None) == "__all__" for t in targets), name
        backend = name.startswith("physnet_kernels.") and name.split(".")[-1][0] != "_"
        if name in packages or backend:  # a backend names its functions, wherever they are
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom):
                assert "*" not in [alias.name for alias in node.names], name
                assert all(alias.asname != alias.name for alias in node.names), name
