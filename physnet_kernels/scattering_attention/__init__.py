"""Attention over lists of blocks: forward and backward, in Pallas Mosaic GPU and in Triton.

Both modules have the same two functions of the same arguments, `forward` and `backward`.
"""
