"""fastattn for PyTorch on the CPU.  Needs the optional dependencies ``torch``.

`enable` makes ``torch.nn.functional.scaled_dot_product_attention`` call fastattn for CPU tensors,
in existing models.  `attention` is a PyTorch operator with more arguments than that function:
window, softcap, sinks, key lengths, log-sum-exp.

=============================  ====================================================
scaled_dot_product_attention   fastattn.torch.attention
=============================  ====================================================
``query, key, value``          ``q, k, v``
``attn_mask``                  ``mask``
``is_causal=True``             ``causal=True, align="top_left"``
``scale``                      ``scale``
``enable_gqa=True``            not needed: grouped heads always work
``dropout_p``                  not supported; after `enable`, torch computes such calls
``logsumexp`` of torch's op    ``lse``, the second result with ``return_lse=True``
``torch.set_num_threads``      limit of the number of threads of a call
=============================  ====================================================

Importing this module does not change torch; `enable` does.

Examples
--------
>>> import torch
>>> import fastattn.torch
>>> q = torch.randn(2, 8, 100, 64, dtype=torch.bfloat16)
>>> k, v = torch.randn(2, 2, 2, 100, 64, dtype=torch.bfloat16)
>>> sdpa = torch.nn.functional.scaled_dot_product_attention
>>> with fastattn.torch.enabled():
...     out = sdpa(q, k, v, is_causal=True, enable_gqa=True)
>>> out.shape
torch.Size([2, 8, 100, 64])
>>> fastattn.torch.attention(q, k, v, window=(31, 0), softcap=50.0).dtype
torch.bfloat16
"""

from fastattn.torch._op import attention
from fastattn.torch._sdpa import disable, enable, enabled, status
from fastattn.torch._status import Status

__all__ = ["Status", "attention", "disable", "enable", "enabled", "status"]
