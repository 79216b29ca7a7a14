"""Which rows of `ablation.py` there are, and what the difference of each to another one means."""

import dataclasses
from collections.abc import Sequence
from typing import Any, NamedTuple

from lm import ablations
from lm.rows import Model, models, variant
from lm.settings import BKCore, Settings, Training
from shakespeare import command_line

CONTEXT = {"smoke": 64, "gpu": 2048}
"""Of the rows with a longer context, in presets that have them."""
SMOKE_STEPS = 20


class Row(NamedTuple):
    """A model to train.

    Args:
        name: of the row.
        label: for people.
        mechanism: whose effect the difference to the reference is; "" for a reference.
        reference: name of the row that it is compared with.
        added: whether the row has the mechanism and the reference has not.
        fields: of `BKCoreConfig` that differ from the preset.
        isometry: whether the loss has the isometry penalty.
        context: characters of a window, where it is not the preset's.
    """

    name: str
    label: str
    mechanism: str = ""
    reference: str = "bk"
    added: bool = False
    fields: dict[str, Any] | None = None
    isometry: bool = False
    context: int | None = None


IN_CORE = {  # name of a change: mechanism, whether the row has it
    "bk-attention": ("mixer", False),
    "bk-mixer": ("gated attention", False),
    "bk-all-pairs": ("gate, not all pairs", False),
    "bk-window": ("gate, not a sliding window", False),
    "bk-no-band": ("local window", False),
    "bk-soft": ("soft gate", True),
    "bk-hopping": ("learned hopping", True),
    "bk-narrow": ("experts", True),
    "bk-teleport": ("teleport", True),
    "bk-isometry": ("isometry", True),
    "bk-reversible": ("reversible", True),
    "bk-memory": ("memory, not the gate", True),
}
"""The first five leave out something that BK-Core has, the others add to it."""


def rows(settings: Settings) -> list[Row]:
    """All rows of a preset, the most telling ones first."""
    changes = {c.name: c for c in (*ablations.TOKENS, *ablations.DEPTH)}
    fields = {name: change.fields(settings) for name, change in changes.items()}
    core = [Row("transformer", "plain transformer"), Row("bk", "BK-Core")]
    for name, (mechanism, added) in IN_CORE.items():
        label, isometry = changes[name].label, changes[name].isometry
        core.append(Row(name, label, mechanism, "bk", added, fields[name], isometry))
    return [*core, *_without_mixer(changes, fields), *_longer(settings), *_full(fields)]


def _without_mixer(
    changes: dict[str, ablations.Change], fields: dict[str, dict[str, Any]]
) -> list[Row]:
    """Attention alone: with all pairs (a gate that keeps them all), a window, a soft gate."""
    alone, found = changes["bk-attention"].label, []
    for name, label, like in (
        ("bk-dense", changes["bk-dense"].label, "bk-all-pairs"),
        ("bk-attention-window", f"{alone}, sliding window", "bk-window"),
        ("bk-attention-soft", f"{alone}, soft gate", "bk-soft"),
    ):
        change = fields["bk-attention"] | fields[like]
        found.append(Row(name, label, IN_CORE[like][0], "bk-attention", IN_CORE[like][1], change))
    return found


def _full(fields: dict[str, dict[str, Any]]) -> list[Row]:
    """The model with everything that goes together, and it without each."""
    on = ("bk-soft", "bk-hopping", "bk-narrow", "bk-teleport", "bk-reversible")
    everything: dict[str, Any] = {}
    for name in on:
        everything |= fields[name]
    without = {
        "mixer": {"mixer": False},
        "gated attention": {"attention": False},
        "gate, not all pairs": {"density": 1.0},
        "gate, not a sliding window": fields["bk-window"],
        "local window": {"local_window": 0},
        "soft gate": {"soft_gate": False},
        "learned hopping": {"learn_hopping": False},
        "experts": {"experts": 0, "expert_width": None},
        "teleport": {"teleport": 0.0},
        "isometry": {},
        "reversible": {"reversible": False},
    }
    found = [Row("full", "everything", fields=everything, isometry=True, reference="full")]
    for mechanism, change in without.items():
        name = "full-" + mechanism.replace(",", "").replace(" ", "-")
        label = f"everything without {mechanism}".replace("without gate, not", "with")
        own, isometry = everything | change, mechanism != "isometry"
        found.append(Row(name, label, mechanism, "full", False, own, isometry))
    held = everything | fields["bk-memory"] | {"soft_gate": False}
    label, mechanism = "everything with memory, no soft gate", "memory, not the gate"
    found.append(Row("full-memory", label, mechanism, "full-soft-gate", True, held, True))
    return found


def _longer(settings: Settings) -> list[Row]:
    """The gate, a window of equal share, all pairs and none at a longer context."""
    context = CONTEXT.get(settings.preset)
    if context is None:
        return []
    near = ablations.window(context, settings.bk.density)
    window = {"density": 0.0, "local_window": near}
    found = [Row("long", f"BK-Core at {context}", reference="long", context=context)]
    for name, label, mechanism, fields in (
        ("window", "sliding window", "gate, not a sliding window", window),
        ("all-pairs", "all pairs", "gate, not all pairs", {"density": 1.0}),
        ("mixer", "mixer only", "gated attention", {"attention": False}),
    ):
        own = f"BK-Core at {context}, {label}"
        found.append(Row(f"long-{name}", own, mechanism, "long", False, fields, context=context))
    return found


def settings_of(preset: str, steps: int | None, options: Sequence[str] = ()) -> Settings:
    """The main job's preset and options, few looks at the held-out text, perhaps fewer steps."""
    settings = command_line(["--preset", preset, *options])
    training = settings.training
    if steps is None:
        steps = SMOKE_STEPS if preset == "smoke" else training.steps
    each = max(1, steps // (4 * training.steps_per_call)) * training.steps_per_call
    training = dataclasses.replace(
        training,
        steps=steps,
        warmup=min(training.warmup, steps // 4),
        evaluate_every=each,
        checkpoint_every=each,
    )
    return dataclasses.replace(settings, training=training)


def settings_in(report: dict[str, Any]) -> Settings:
    """Those that a report's runs were made with, as far as rows depend on them."""
    found = report["settings"]
    settings = settings_of(found["preset"], None)
    return dataclasses.replace(
        settings, training=Training(**found["training"]), bk=BKCore(**found["bk"])
    )


def built(row: Row, settings: Settings, vocabulary: int) -> tuple[Model, Settings]:
    """The row's model, and the settings with its context: as many characters a step.

    A longer context changes no model: the transformer whose size they have has the preset's.
    """
    if row.name == "transformer":
        (model,) = models(dataclasses.replace(settings, rows=("transformer",)), vocabulary)
    else:
        fields, isometry = row.fields or {}, row.isometry
        model = variant(settings, vocabulary, row.name, row.label, isometry=isometry, **fields)
    if row.context is None:
        return model, settings
    training = settings.training
    batch = max(1, training.batch * training.block // row.context)
    training = dataclasses.replace(training, block=row.context, batch=batch)
    return model, dataclasses.replace(settings, training=training)
