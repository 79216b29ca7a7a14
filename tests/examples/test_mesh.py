"""Rows on meshes of 8 devices: what one device learns, and checkpoints that fit other meshes."""

from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from lm import checksum, mesh, scale
from lm.errors import UserError

HERE = Path(__file__).parent

BEGIN = f"""
import sys
sys.path[:0] = [{str(HERE)!r}, {str(HERE.parents[1] / "examples")!r}]
import shutil, tempfile
from pathlib import Path
import numpy as np
from meshes import *

ROOT = Path(tempfile.mkdtemp())
"""

CHECKPOINTS = """
one = trained(BIGRAM, ROOT / "one")
many = {}
for name, sizes in {"data": dict(data=8), "both": dict(data=2, tensor=4)}.items():
    many[name] = trained(BIGRAM, ROOT / name, spread(**sizes))
    equal(one, many[name], atol=1e-6)

# The table and the optimiser's two copies of it lie in parts, the rest whole.
state = spread(data=2, tensor=4).begin(BIGRAM, TRAINING)
split = [leaf.shape for leaf in jax.tree.leaves(state)
         if leaf.addressable_shards[0].data.size < leaf.size]
assert split == [(ROOM, ROOM)] * 3, split
assert state["params"]["table"].addressable_shards[0].data.shape == (ROOM // 4, ROOM)

def resumed(source, name, devices):
    # From step 3 of another run.
    shutil.copytree(ROOT / source, ROOT / name)
    shutil.rmtree(ROOT / name / "checkpoints" / "6")
    said = []
    found = trained(BIGRAM, ROOT / name, devices, said=said)
    assert "resuming after step 3" in said[0]
    return found

equal(many["both"], resumed("both", "same", spread(data=2, tensor=4)))  # to the bit
equal(one, resumed("both", "fewer", spread(data=2)), atol=1e-6)
equal(one, resumed("both", "single", ONE), atol=1e-6)
equal(one, resumed("one", "wider", spread(data=2, tensor=4)), atol=1e-6)

# Bytes of an array that are damaged are found, though no device has seen it whole.
noticed = 0
for number, path in enumerate((ROOT / "both" / "checkpoints" / "6").rglob("d/*")):
    copy = ROOT / f"damaged{number}"
    shutil.copytree(ROOT / "both", copy)
    target = copy / path.relative_to(ROOT / "both")
    data = bytearray(target.read_bytes())
    data[len(data) // 2] ^= 0xFF
    target.write_bytes(data)
    said = []
    equal(many["both"], trained(BIGRAM, copy, spread(data=2, tensor=4), said=said))
    noticed += "checkpoint 6 is damaged" in said[0]
assert noticed, "no damage was noticed"

# And so is content that the reader of the files takes for sound.
from lm import checkpoints
from lm.errors import UserError

right, checkpoints.checksum = checkpoints.checksum, lambda state: 32 * "0"
trained(BIGRAM, ROOT / "other", spread(data=8))
checkpoints.checksum = right
said = []
try:
    trained(BIGRAM, ROOT / "other", spread(data=8), said=said)
except UserError as error:
    assert "no checkpoint in" in str(error)
else:
    raise AssertionError("a wrong checksum was taken for right")
print("equal")
"""


@pytest.mark.slow
def test_what_one_device_learns_whichever_mesh_begins_or_resumes(on_devices):
    assert on_devices(BEGIN + CHECKPOINTS, 8) == "equal"


MODELS = """
from lm import rows
from lm.settings import PRESETS

smoke = PRESETS["smoke"]
changed = dataclasses.replace(
    smoke,
    rows=ROWS,
    sizes=dataclasses.replace(smoke.sizes, layers=1, width=16),
    bk=dataclasses.replace(smoke.bk, hidden_multiple=2, experts=4, chains=4),
)
for model in rows.models(changed, len(TOY.characters)):
    if model.name == "bk-experts":  # theirs is what is new here: less to compile without attention
        config = dataclasses.replace(model.config, attention=False)
        model = model._replace(config=config, calibrate=None, pairs=None)
    one = trained(model, ROOT / model.name)
    many = trained(model, ROOT / f"{model.name}-many", spread(**MESH))
    equal(one, many, atol=5e-6)
print("equal")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("names", "mesh"),
    [
        (("transformer", "bk"), {"data": 2, "tensor": 2, "sequence": 2}),
        (("bk-experts",), {"data": 2, "expert": 4}),
    ],
)
def test_what_one_device_learns_where_the_models_lie_in_parts(on_devices, names, mesh):
    assert on_devices(f"{BEGIN}\nROWS, MESH = {names}, {mesh}\n{MODELS}", 8) == "equal"


REFUSED = """
from lm.errors import UserError
from lm import rows
from lm.settings import PRESETS

def refused(model, training=TRAINING, **sizes):
    try:
        trained(model, ROOT / "none", spread(**sizes), training=training)
    except UserError as error:
        return str(error)

smoke = dataclasses.replace(PRESETS["smoke"], rows=("bk", "bk-isometry"))
bk, isometry = rows.models(smoke, 20)
print(refused(BIGRAM, data=3))
print(refused(BIGRAM, dataclasses.replace(TRAINING, batch=6), data=4))
print(refused(BIGRAM, sequence=-1, data=5))
print(refused(BIGRAM, sequence=3))
print(refused(bk, tensor=8))
print(refused(isometry, data=2, sequence=2))
"""


def test_what_a_mesh_cannot_split_is_named(on_devices):
    lines = on_devices(BEGIN + REFUSED, 8).splitlines()
    for line, words in zip(
        lines,
        (
            "--training.batch must be a multiple of the 3 parts that --mesh splits it into, got 8",
            "--training.batch must be a multiple of the 4 parts that --mesh splits it into, got 6",
            "--mesh of data 5 x expert 1 x sequence -1 x tensor 1 does not fit 8 devices",
            "--training.block must be a multiple of the 3 parts that --mesh splits it into, got 8",
            "cannot be split into the 8 parts of --mesh.tensor; --bk.hidden-multiple makes widths",
            "BK-Core, isometry: its penalty can be spread over --mesh.data alone",
        ),
        strict=True,
    ):
        assert words in line


def test_sizes_of_axes():
    def sizes(devices, several=False, **given):
        return mesh.sizes(scale.Mesh(**given), devices, all_of_them=several)

    one = {"data": 1, "expert": 1, "sequence": 1, "tensor": 1}
    assert sizes(8) == one
    assert sizes(8, several=True) == one | {"data": 8}
    assert sizes(8, data=2, tensor=2) == one | {"data": 2, "tensor": 2}  # four are left alone
    assert sizes(8, data=-1, tensor=2) == one | {"data": 4, "tensor": 2}
    assert sizes(8, several=True, sequence=-1, expert=2) == one | {"sequence": 4, "expert": 2}
    for devices, several, given in (
        (8, False, {"data": 16}),
        (8, True, {"data": 4}),
        (6, False, {"data": 4, "tensor": -1}),
    ):
        with pytest.raises(UserError, match=f"does not fit {devices} devices"):
            sizes(devices, several, **given)
    for bad in ({"data": 0}, {"tensor": -2}, {"data": -1, "tensor": -1}):
        with pytest.raises(UserError, match="--mesh"):
            scale.Mesh(**bad)


def numbers(seed):
    generator = np.random.default_rng(seed)
    return [
        jnp.asarray(generator.normal(size=(4, 5, 3)), jnp.float32),
        jnp.asarray(generator.normal(size=7), jnp.bfloat16),
        jnp.asarray(3, jnp.int32),
    ]


def test_a_checksum_tells_every_bit_and_its_place():
    found = {checksum.checksum(numbers(0))}
    assert found == {checksum.checksum(numbers(0))}
    assert len(next(iter(found))) == 32
    first = np.asarray(numbers(0)[0])
    for bit in (0, 13, 31):  # of the last element
        changed = first.view(np.uint32).copy()
        changed[-1, -1, -1] ^= np.uint32(1 << bit)
        found.add(checksum.checksum([changed.view(np.float32), *numbers(0)[1:]]))
    swapped = first.copy()
    swapped[0, 0, :2] = first[0, 0, 1::-1]
    moved = np.roll(first, 1, axis=1)
    for other in (swapped, moved, first.transpose(1, 0, 2), first.reshape(20, 3), 0 * first):
        found.add(checksum.checksum([jnp.asarray(other), *numbers(0)[1:]]))
    found.add(checksum.checksum(numbers(0)[::-1]))
    assert len(found) == 10
