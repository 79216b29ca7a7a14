"""Times torch's compiled flex_attention for attention_gpu.py, which starts this as a process.

It compiles every shape at once. For each line on standard input, a shape [length, heads, key heads,
head dimension], it answers with a line of rows (name, both passes?, kept, pairs, seconds).
"""

import json
import sys

import numpy as np
import torch
from torch.nn.attention.flex_attention import BlockMask, flex_attention
from triton.testing import do_bench

BLOCK = 128


def masks(length: int, kept: list[float]):
    """(share of the dense blocks, pairs, torch's block mask), the masks of attention_gpu.py."""
    count = length // BLOCK
    for share in kept:
        random = np.random.default_rng(0).uniform(size=(count, count)) < share
        mask = np.tril(random | np.eye(count, dtype=bool))
        pairs = int(mask.sum()) * BLOCK**2 - count * BLOCK * (BLOCK - 1) // 2
        whole = np.tril(mask, -1)

        def keep(batch, head, query, key):  # of the blocks that hold something else, too
            return key <= query

        lists = (torch.tensor(x, device="cuda") for x in (*listed(mask & ~whole), *listed(whole)))
        made = BlockMask.from_kv_blocks(
            *lists, BLOCK_SIZE=BLOCK, mask_mod=keep, seq_lengths=(length, length)
        )
        yield float(mask.sum() / np.tril(np.ones_like(mask)).sum()), pairs, made


def listed(mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """How many blocks of a row a mask holds, and their numbers, those first."""
    order = np.argsort(~mask, axis=-1, kind="stable").astype(np.int32)
    return mask.sum(-1, dtype=np.int32)[None, None], order[None, None]


def tensors(length: int, heads: int, key_heads: int, width: int):
    r = torch.Generator("cuda").manual_seed(0)
    query, key, value, cotangent = (
        torch.randn(1, n, length, width, device="cuda", dtype=torch.bfloat16, generator=r)
        for n in (heads, key_heads, key_heads, heads)
    )
    return [x.requires_grad_() for x in (query, key, value)], cotangent


def seconds(run, mask, inputs, cotangent) -> tuple[float, float]:
    """Of a forward pass, and of one with its backward pass."""
    grouped = inputs[0].shape[1] != inputs[1].shape[1]

    def forward():
        return run(*inputs, block_mask=mask, enable_gqa=grouped)

    def both():
        for x in inputs:
            x.grad = None
        forward().backward(cotangent)

    with torch.no_grad():
        one = do_bench(forward, warmup=20, rep=100, return_mode="median")
    return one / 1e3, do_bench(both, warmup=20, rep=100, return_mode="median") / 1e3


def main() -> None:
    torch._dynamo.config.recompile_limit = 64
    lengths, kept, shapes = json.loads(sys.argv[1])
    run = torch.compile(flex_attention, dynamic=False)
    made = {length: list(masks(length, kept)) for length in lengths}
    for length in lengths:
        for shape in shapes:
            inputs, cotangent = tensors(length, *shape)
            options = {"block_mask": made[length][0][2], "enable_gqa": shape[0] != shape[1]}
            run(*inputs, **options).backward(cotangent)
            with torch.no_grad():
                run(*inputs, **options)
    torch.cuda.synchronize()
    torch.cuda.empty_cache()
    for line in sys.stdin:
        length, *shape = json.loads(line)
        inputs, cotangent = tensors(length, *shape)
        rows = []
        for share, pairs, mask in made[length]:
            took = seconds(run, mask, inputs, cotangent)
            rows += [("flex_attention", both, share, pairs, took[both]) for both in (False, True)]
        del inputs, cotangent
        torch.cuda.empty_cache()
        print(json.dumps(rows), flush=True)


if __name__ == "__main__":
    main()
