"""GPU kernels of physnet: raw forward and backward functions, one folder an operation.

Import them through `physnet`, which chooses an implementation and owns the derivative rules.
"""
