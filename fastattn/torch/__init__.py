"""fastattn for PyTorch on the CPU (``pip install "fastattn[torch]"``).

`enable` lets fastattn compute ``torch.nn.functional.scaled_dot_product_attention``, for models as
they are; `attention` is an op for what that function cannot say.

=============================  ====================================================
theirs                         ours
=============================  ====================================================
``query, key, value``          ``q, k, v``
``attn_mask``                  ``mask``
``is_causal=True``             ``causal=True, align="top_left"``
``scale``                      ``scale``
``enable_gqa=True``            always: query heads are a multiple of key heads
``dropout_p``                  none; `enable` leaves it to torch
``logsumexp`` of their op      ``lse``, the result of ``return_lse=True``
``torch.set_num_threads``      the most threads that a call uses
=============================  ====================================================

Importing this module activates nothing.

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
