"""Private names of torch, Pyro, NumPy and Python, one wrapper each: they stand nowhere else.

A release may change them without a word: ``tests/infer/engine/test_internals.py`` tries each on
what it is used for. Those that lower rooms need are in ``ground.internals``.
"""

from __future__ import annotations

import linecache
import operator
import random
from collections.abc import Callable, Sequence

import numpy as np
import torch
from pyro.infer import Trace_ELBO
from pyro.poutine import Trace
from pyro.poutine.util import prune_subsample_sites
from torch import Tensor, nn
from torch.fx import GraphModule, graph_module
from torch.multiprocessing.reductions import StorageWeakRef as StorageWeakRef
from torch.nn.modules import module as all_modules
from torch.optim import optimizer as all_optimizers
from torch.utils import _pytree

_ATEN = torch.ops.aten

# Functions of nested lists, tuples and dicts
tree_leaves, tree_map = _pytree.tree_leaves, _pytree.tree_map
tree_map_only = _pytree.tree_map_only

# Of a module, the dicts that hold: modules, parameters, buffers; with them, hooks on its calls
children = operator.attrgetter("_modules")
parameters = operator.attrgetter("_parameters")
buffers = operator.attrgetter("_buffers")
contents = operator.attrgetter(
    "_modules", "_parameters", "_buffers", "_forward_hooks", "_forward_pre_hooks"
)
# Hooks on gradients: of a module, two dicts; of a tensor, two dicts or None
backward_hooks = operator.attrgetter("_backward_hooks", "_backward_pre_hooks")
gradient_hooks = operator.attrgetter("_backward_hooks", "_post_accumulate_grad_hooks")
# Hooks on all modules
HOOKS = (all_modules._global_forward_hooks, all_modules._global_forward_pre_hooks)
HOOKS_ON_BACKWARD = (all_modules._global_backward_hooks, all_modules._global_backward_pre_hooks)
# Hooks on the steps of an optimizer, and of all
step_hooks = operator.attrgetter("_optimizer_step_pre_hooks", "_optimizer_step_post_hooks")
HOOKS_ON_STEPS = (
    all_optimizers._global_optimizer_pre_hooks,
    all_optimizers._global_optimizer_post_hooks,
)

# In-place kernels over lists of tensors
adam, adamw = torch._fused_adam_, torch._fused_adamw_
add_to_each, copy_each = torch._foreach_add_, torch._foreach_copy_
norm_of_each = torch._foreach_norm

# The class of operations, such as that of ``torch.ops.aten.add.Tensor``; what one declares
Operator = torch._ops.OpOverload
schema = operator.attrgetter("_schema")
# Have read lengths from tensors
SIZING = (_ATEN._pack_padded_sequence.default, _ATEN._ctc_loss.default)
UNSAFE_INDEX = _ATEN._unsafe_index.Tensor
# Where torch's own functions for operators stand, by the same names
FUNCTIONS = (torch._C._VariableFunctions, torch._C._nn, torch._C.TensorBase)

# The global random streams of Python and NumPy
GENERATORS = (random._inst, np.random.mtrand._rand)


def forget_source(forward: Callable) -> None:
    """Free the text of a graph's code, which torch keeps for ever, for tracebacks."""
    name = forward.__code__.co_filename
    linecache.cache.pop(name, None)
    graph_module._loader.eval_cache.pop(name, None)


def compiled(graph: GraphModule, inputs: Sequence[Tensor]) -> Callable:
    """A graph through ``torch.compile``'s compiler, with the random numbers of eager torch.

    It comes from torch's cache on disk where a process has compiled the same graph before, for
    vectors of the same width: the cache itself does not tell processors apart. It takes what is
    compiled in a context of symbolic shapes; there are none here.
    """
    # Take seconds to import
    from torch._guards import TracingContext, tracing
    from torch._inductor.compile_fx import compile_fx
    from torch._inductor.cpu_vec_isa import pick_vec_isa
    from torch._subclasses import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv

    # Options are part of the cache's key
    options = {"fallback_random": True, "cpp.simdlen": pick_vec_isa().bit_width()}
    shapes = ShapeEnv(assume_static_by_default=True)
    with tracing(TracingContext(FakeTensorMode(shape_env=shapes, allow_non_fake_inputs=True))):
        return compile_fx(graph, list(inputs), config_patches=options)


def check_dimensions(norm: nn.Module, x: Tensor) -> None:
    """Raise ``ValueError`` for inputs of another dimension than a batch normalisation takes."""
    norm._check_input_dim(x)


def surrogate(model_trace: Trace, guide_trace: Trace) -> Tensor:
    """Pyro's loss of one sample; where draws have no gradient, that of the score function."""
    pruned = map(prune_subsample_sites, (model_trace, guide_trace))
    loss, surrogate_loss = Trace_ELBO()._differentiable_loss_particle(*pruned)
    return surrogate_loss + (loss - surrogate_loss.detach())
