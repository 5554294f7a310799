"""What the package relies on without a promise: a release that breaks one fails by its name."""

import ast
import collections
import copy
import inspect
import linecache
import random
import warnings
from pathlib import Path

import numpy as np
import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer.autoguide import AutoNormal
from pyro.nn import PyroModule, PyroParam
from pyro.ops import packed
from pyro.poutine.messenger import Messenger
from torch import nn
from torch._guards import TracingContext, tracing
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import ShapeEnv
from torch.nn.modules import module as all_modules
from torch.optim import optimizer as all_optimizers

import pyro_vae
from pyro_vae.ground import internals as lower
from pyro_vae.infer.engine import internals

PACKAGE = Path(pyro_vae.__file__).parent
HOMES = (Path(lower.__file__), Path(internals.__file__))
# Undocumented, whatever their names
UNDOCUMENTED = ("torch.fx.experimental", "torch.utils.weak_")
# What a subclass is to call or to override
INHERITED = {
    nn.Module: {
        "_apply": ["self", "fn", "recurse"],
        "_load_from_state_dict": ["self", "state_dict", "prefix"],
    },
    torch.distributions.Distribution: {
        "_extended_shape": ["self", "sample_shape"],
        "_validate_sample": ["self", "value"],
        "_validate_args": None,
    },
}
ATEN = torch.ops.aten


def private_of(*objects):
    names = {name for thing in objects for name in dir(thing)}
    return {n for n in names if n.startswith("_") and not n.endswith("__") and len(n) > 2}


def program(x):
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(0.0, 1.0))


def autoguide(n=3):
    guide = AutoNormal(program)
    with poutine.block():
        guide(torch.zeros(n))
    return guide


def theirs():
    weight = nn.Parameter(torch.ones(2))
    return private_of(
        *(torch, torch.nn, torch._C, weight, nn.BatchNorm1d(2), torch.Generator(), all_modules),
        *(torch.optim.Adam([weight]), all_optimizers, ATEN, ATEN.add.Tensor, torch.fx.Graph()),
        *(torch.fx.graph_module, torch.fx.GraphModule, torch.fx.Node, dist.Normal(0.0, 1.0)),
        *(pyro.get_param_store(), poutine.Trace(), Messenger(), pyro.infer.Trace_ELBO()),
        autoguide(),
    )


def own_names(tree):
    """Private names that a file gives to functions, classes, variables and attributes."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            yield node.name
        elif isinstance(node, ast.Attribute | ast.Name) and isinstance(node.ctx, ast.Store):
            yield node.attr if isinstance(node, ast.Attribute) else node.id


def is_inside(value):
    """Whether an expression is an object's or a class's own self."""
    names = ("self", "cls", "super")
    value = value.func if isinstance(value, ast.Call) else value
    return isinstance(value, ast.Name) and value.id in names


def offences(tree, private, everywhere):
    """Lines of a file with a private name of another library."""
    inherited = {name for names in INHERITED.values() for name in names}
    own = set(own_names(tree))
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom) and not getattr(node, "level", 0):
            module = getattr(node, "module", None) or ""
            for alias in node.names:
                parts = [*module.split("."), *alias.name.split(".")]
                hidden = any(p.startswith("_") and not p.endswith("__") for p in parts)
                if hidden or ".".join(parts).startswith(UNDOCUMENTED):
                    yield node.lineno, ".".join(parts)
        elif isinstance(node, ast.Attribute) and node.attr.startswith("_"):
            name = node.attr
            inside = is_inside(node.value) and (name in everywhere or name in inherited)
            if not (name.endswith("__") or inside or name in own):
                if name in private or name not in everywhere:
                    yield node.lineno, ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            if node.value in private - own:
                yield node.lineno, node.value


def found_in(sources):
    private = theirs()
    trees = {path: ast.parse(text) for path, text in sources.items()}
    everywhere = {name for tree in trees.values() for name in own_names(tree)}
    return [
        f"{path}:{line}: {what}"
        for path, tree in trees.items()
        for line, what in offences(tree, private, everywhere)
    ]


def test_private_names_of_other_libraries_stand_in_internals_alone():
    files = [path for path in PACKAGE.rglob("*.py") if path not in HOMES]
    assert found_in({path: path.read_text() for path in files}) == []


@pytest.mark.parametrize(
    "line",
    [
        "import torch._C",
        "from torch._guards import tracing",
        "from torch.nn.modules.batchnorm import _BatchNorm",
        "from torch.fx.experimental import proxy_tensor",
        "torch._foreach_add_(tensors, 1)",
        "found = tensor._version",
        "held = [m._parameters for m in modules]",
        "names = ('_modules', '_buffers')",
        "class Net(nn.Module):\n    def forward(self):\n        return self._modules",
        "frames = guide._prototype_frames",
        "numpy.random.mtrand._rand",
    ],
)
def test_a_private_name_elsewhere_is_found(line):
    assert found_in({"here": line}) != []


@pytest.mark.parametrize(
    "line",
    [
        "from ._parts import _part",
        "def _parameters():\n    pass",
        "class A:\n    def run(self):\n        self._modules = self._version = 1",
        "name = tensor.__class__",
        "class A(Distribution):\n    def rsample(self, s):\n        self._extended_shape(s)",
    ],
)
def test_own_names_and_those_of_a_base_class_may_stand(line):
    assert found_in({"here": line}) == []


def adam(kernel, **options):
    """A step by a kernel, as torch's own optimizer takes it."""
    weights = [nn.Parameter(torch.tensor([1.0, -2.0])) for _ in range(2)]
    for weight in weights:
        weight.grad = torch.tensor([0.5, 3.0])
    kind = torch.optim.AdamW if kernel is internals.adamw else torch.optim.Adam
    kind([weights[0]], lr=0.1, weight_decay=0.01, fused=True).step()
    zeros = [torch.zeros(2) for _ in range(2)]
    with torch.no_grad():
        kernel(
            *([weights[1]], [weights[1].grad], zeros[:1], zeros[1:], [], [torch.ones(())]),
            **dict(lr=0.1, beta1=0.9, beta2=0.999, weight_decay=0.01, eps=1e-8),
            **dict(amsgrad=False, maximize=False),
        )
    assert torch.equal(*weights)


def hooks_are_seen(register, dicts):
    before = [*map(len, dicts)]
    handle = register(lambda *args: None)
    assert sum(map(len, dicts)) == sum(before) + 1
    handle.remove()
    assert [*map(len, dicts)] == before


def try_functions():
    found = [next(getattr(n, name, None) for n in internals.FUNCTIONS if hasattr(n, name))
             for name in ("add", "linear", "softplus", "view")]  # fmt: skip
    assert found[0](torch.ones(1), 1) == 2
    assert found[1] is nn.functional.linear
    assert found[2](torch.zeros(1)) == pytest.approx(np.log(2))
    assert found[3](torch.zeros(2), (1, 2)).shape == (1, 2)


def try_generators():
    states = random.getstate(), np.random.get_state()
    python, numpy = internals.GENERATORS
    assert python.getstate() == states[0]
    assert numpy.get_state()[2] == states[1][2]
    expected = random.random(), np.random.random()
    python.setstate(states[0])
    numpy.set_state(states[1])
    assert (random.random(), np.random.random()) == expected


def try_hooks():
    pairs = zip(
        (all_modules.register_module_forward_hook, all_modules.register_module_forward_pre_hook),
        internals.HOOKS,
        strict=True,
    )
    for register, held in pairs:
        hooks_are_seen(register, [held])


def try_hooks_on_backward():
    registers = (
        all_modules.register_module_full_backward_hook,
        all_modules.register_module_full_backward_pre_hook,
    )
    for register, held in zip(registers, internals.HOOKS_ON_BACKWARD, strict=True):
        hooks_are_seen(register, [held])


def try_hooks_on_steps():
    registers = (
        all_optimizers.register_optimizer_step_pre_hook,
        all_optimizers.register_optimizer_step_post_hook,
    )
    for register, held in zip(registers, internals.HOOKS_ON_STEPS, strict=True):
        hooks_are_seen(register, [held])


def try_storage_weak_ref():
    tensor = torch.ones(2)
    memory = internals.StorageWeakRef(tensor.untyped_storage())
    again = internals.StorageWeakRef(tensor.view(1, 2).untyped_storage())
    assert memory.cdata == again.cdata and not memory.expired()
    del tensor
    assert memory.expired()


def try_step_hooks():
    optimizer = torch.optim.Adam([nn.Parameter(torch.ones(1))])
    for register in (optimizer.register_step_pre_hook, optimizer.register_step_post_hook):
        hooks_are_seen(register, internals.step_hooks(optimizer))


def try_backward_hooks():
    layer = nn.Linear(1, 1)
    for register in (
        layer.register_full_backward_hook,
        layer.register_full_backward_pre_hook,
    ):
        hooks_are_seen(register, internals.backward_hooks(layer))


def try_gradient_hooks():
    weight = nn.Parameter(torch.ones(1))
    assert not any(internals.gradient_hooks(weight))
    weight.register_hook(lambda gradient: None)
    weight.register_post_accumulate_grad_hook(lambda weight: None)
    assert all(map(len, internals.gradient_hooks(weight)))


def try_children():
    norm = nn.Sequential(nn.BatchNorm1d(2))
    internals.children(norm)["0"] = replaced = nn.Identity()
    assert norm[0] is replaced


def try_parameters():
    layer = nn.Linear(1, 1)
    internals.parameters(layer)["bias"] = replaced = nn.Parameter(torch.ones(1))
    assert layer.bias is replaced


def try_contents():
    norm = nn.Sequential(nn.BatchNorm1d(2))
    modules, parameters, buffers, *hooks = internals.contents(norm)
    assert modules is internals.children(norm)
    assert parameters is internals.parameters(norm)
    assert buffers is internals.buffers(norm)
    hooks_are_seen(norm.register_forward_hook, hooks)
    hooks_are_seen(norm.register_forward_pre_hook, hooks)


def try_buffers():
    norm = nn.BatchNorm1d(2)
    internals.buffers(norm)["running_mean"] = replaced = torch.ones(2)
    assert norm.running_mean is replaced


class Listed(lower.DispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen.append(func)
        return func(*args, **(kwargs or {}))


def try_dispatch_mode():
    with Listed() as mode:
        torch.ones(2) + 1
    assert mode.seen[-1] is ATEN.add.Tensor


def try_operator():
    assert isinstance(ATEN.add.Tensor, internals.Operator)
    assert ATEN.add.Tensor.namespace == "aten"
    assert torch.Tag.nondeterministic_seeded in ATEN.bernoulli.default.tags


def try_schema():
    schemas = [*map(internals.schema, (ATEN.add.Tensor, ATEN.add_.Tensor))]
    assert [s.is_mutable for s in schemas] == [False, True]
    assert [s.name for s in schemas] == ["aten::add", "aten::add_"]
    assert [str(a.type) for a in schemas[0].arguments][:2] == ["Tensor", "Tensor"]
    assert schemas[0].arguments[2].name == "alpha"
    index = internals.schema(ATEN.index.Tensor).arguments[1]
    assert "Optional[Tensor]]" in str(index.type)


def try_forget_source():
    before = set(linecache.cache)
    graph = torch.fx.GraphModule(nn.Module(), torch.fx.Tracer().trace(nn.Identity()))
    name = graph.forward.__code__.co_filename
    assert name in set(linecache.cache) - before
    internals.forget_source(graph.forward)
    assert name not in linecache.cache
    assert name not in torch.fx.graph_module._loader.eval_cache


def try_compiled():
    with warnings.catch_warnings():
        # Of torch 2.11, about itself
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        from torch._inductor import config
        from torch._inductor.compile_fx import compile_fx
        from torch._inductor.cpu_vec_isa import pick_vec_isa

    parameters = inspect.signature(compile_fx).parameters
    assert list(parameters)[:2] == ["model_", "example_inputs_"]
    assert "config_patches" in parameters
    assert isinstance(config.fallback_random, bool)
    with config.patch({"cpp.simdlen": 0}):
        assert pick_vec_isa().bit_width() == 0
    mode = FakeTensorMode(
        shape_env=ShapeEnv(assume_static_by_default=True), allow_non_fake_inputs=True
    )
    with tracing(TracingContext(mode)):
        assert TracingContext.get().fake_mode is mode


def try_check_dimensions():
    internals.check_dimensions(nn.BatchNorm2d(2), torch.zeros(1, 2, 3, 3))
    with pytest.raises(ValueError, match="4D"):
        internals.check_dimensions(nn.BatchNorm2d(2), torch.zeros(1, 2))


def try_surrogate():
    x, logit = torch.tensor([1.0, 0.0]), torch.tensor(0.3, requires_grad=True)

    def model():
        with pyro.plate("rows", 2):
            z = pyro.sample("z", dist.Bernoulli(0.5))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    def guide():
        with pyro.plate("rows", 2):
            pyro.sample("z", dist.Bernoulli(logits=logit))

    q = poutine.trace(guide).get_trace()
    p = poutine.trace(poutine.replay(model, trace=q)).get_trace()
    for trace in (p, q):
        trace.compute_log_prob()
        trace.compute_score_parts()
    z, log_q = q.nodes["z"]["value"], q.nodes["z"]["log_prob"]
    bound = (p.nodes["z"]["log_prob"] + p.nodes["x"]["log_prob"] - log_q).detach()
    loss = internals.surrogate(p, q)
    assert loss.item() == pytest.approx(-bound.sum().item(), rel=1e-6)
    (gradient,) = torch.autograd.grad(loss, logit)
    score = z - logit.sigmoid()
    assert gradient.item() == pytest.approx(-(bound * score).sum().item(), rel=1e-5)


def try_trees():
    tensor, tree = torch.ones(1), collections.OrderedDict(a=[torch.ones(1), 2], b=(None,))
    assert internals.tree_leaves(tree)[1:] == [2, None]
    assert internals.tree_map(lambda leaf: 1, {"a": [tensor, "x"]}) == {"a": [1, 1]}
    mapped = internals.tree_map_only(torch.Tensor, lambda t: t + 1, [tensor, 5])
    assert mapped == [2, 5]


def try_sizing():
    lengths = torch.tensor([3, 2])
    with Listed() as mode:
        nn.utils.rnn.pack_padded_sequence(torch.zeros(3, 2, 1), lengths)
        log_p = torch.zeros(3, 2, 4).log_softmax(-1)
        nn.functional.ctc_loss(log_p, torch.ones(2, 2, dtype=torch.long), [3, 3], [2, 1])
    assert set(internals.SIZING) <= set(mode.seen)


def try_version():
    tensor = torch.zeros(2)
    before = lower.version(tensor)
    tensor.add_(1)
    assert lower.version(tensor) == before + 1
    with torch.inference_mode():
        made = torch.zeros(1)
    with pytest.raises(RuntimeError):
        lower.version(made)


def try_each(function, expected):
    tensors = [torch.tensor([3.0, 4.0]), torch.tensor([1.0])]
    result = function(tensors)
    assert [t.tolist() for t in result or tensors] == expected


def try_index():
    values = torch.arange(6.0).reshape(2, 3)
    assert internals.UNSAFE_INDEX(values, [torch.tensor([1])]).tolist() == [[3, 4, 5]]


def try_batch_norm():
    kinds = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    assert all(issubclass(kind, lower.BatchNorm) for kind in kinds)
    assert not issubclass(nn.LayerNorm, lower.BatchNorm)


def try_frames():
    frames = lower.prototype_frames(autoguide(5))
    assert [(name, frame.size) for name, frame in frames.items()] == [("rows", 5)]


def try_model_of_autoguide():
    guide = autoguide()
    (model,) = held = vars(guide)[lower.AUTOGUIDE_MODEL]
    assert model is guide.model
    copied = copy.deepcopy(guide)
    vars(copied)[lower.AUTOGUIDE_MODEL] = held
    assert copied.model is model


def try_constrained():
    class Scaled(PyroModule):
        def __init__(self):
            super().__init__()
            self.scale = PyroParam(torch.ones(2), dist.constraints.positive)
            self.inner = nn.Linear(1, 1)

        def forward(self):
            return self.scale

    scaled, other = Scaled(), Scaled()
    other()
    assert list(lower.constrained_parameters(scaled)) == ["scale"]
    assert lower.constrained_parameters(scaled)["scale"] is scaled.scale_unconstrained
    assert lower.constrained_parameters(other)["scale"] is pyro.param("scale").unconstrained()
    assert lower.constrained_parameters(nn.Linear(1, 1)) == {}


def try_masks():
    mask = torch.tensor([True, False])
    assert lower.mask_of(dist.Normal(0.0, 1.0).mask(True)) is True
    found = lower.mask_of(dist.Normal(torch.zeros(3, 2), 1.0).mask(mask))
    assert found.shape == (3, 2) and torch.equal(found[0], mask)


def packed_trace():
    """Of a discrete latent on its three values, for four data."""

    def model():
        with pyro.plate("data", 4):
            k = pyro.sample("k", dist.Categorical(torch.ones(3)), infer={"enumerate": "parallel"})
            pyro.sample("x", dist.Normal(k, 1.0), obs=torch.zeros(4))

    trace = pyro.poutine.trace(pyro.poutine.enum(model, first_available_dim=-2)).get_trace()
    trace.compute_log_prob()
    trace.pack_tensors({"data": "a"})
    return trace


def try_packed():
    nodes = packed_trace().nodes
    symbol = nodes["k"]["infer"][lower.ENUMERATED]
    assert lower.ENUMERATED not in nodes["x"]["infer"]
    assert nodes["x"]["infer"][lower.DIM_SYMBOLS] == {-1: "a", -2: symbol}
    value = nodes["x"]["packed"]["log_prob"]
    assert lower.packed_dims(value) == symbol + "a" and value.shape == (3, 4)
    moved = lower.packed_as(value.T, "a" + symbol)
    assert torch.equal(packed.unpack(moved, {"a": -1, symbol: -2}), value)


def try_unchecked():
    for kind in (dist.Normal, torch.distributions.Normal):
        assert lower.unchecked(kind(0.0, 1.0, validate_args=False))
        assert not lower.unchecked(kind(0.0, 1.0, validate_args=True))


TRIED = {
    "DIM_SYMBOLS": try_packed,
    "ENUMERATED": try_packed,
    "packed_as": try_packed,
    "packed_dims": try_packed,
    "FUNCTIONS": try_functions,
    "GENERATORS": try_generators,
    "HOOKS": try_hooks,
    "StorageWeakRef": try_storage_weak_ref,
    "HOOKS_ON_BACKWARD": try_hooks_on_backward,
    "HOOKS_ON_STEPS": try_hooks_on_steps,
    "SIZING": try_sizing,
    "UNSAFE_INDEX": try_index,
    "DispatchMode": try_dispatch_mode,
    "Operator": try_operator,
    "adam": lambda: adam(internals.adam),
    "adamw": lambda: adam(internals.adamw),
    "add_to_each": lambda: try_each(lambda t: internals.add_to_each(t, 1), [[4, 5], [2]]),
    "backward_hooks": try_backward_hooks,
    "buffers": try_buffers,
    "check_dimensions": try_check_dimensions,
    "children": try_children,
    "compiled": try_compiled,
    "contents": try_contents,
    "copy_each": lambda: try_each(
        lambda t: internals.copy_each(t, [torch.zeros(2), torch.ones(1)]), [[0, 0], [1]]
    ),
    "forget_source": try_forget_source,
    "gradient_hooks": try_gradient_hooks,
    "norm_of_each": lambda: try_each(internals.norm_of_each, [5, 1]),
    "parameters": try_parameters,
    "schema": try_schema,
    "step_hooks": try_step_hooks,
    "surrogate": try_surrogate,
    "tree_leaves": try_trees,
    "tree_map": try_trees,
    "tree_map_only": try_trees,
    "BatchNorm": try_batch_norm,
    "constrained_parameters": try_constrained,
    "mask_of": try_masks,
    "AUTOGUIDE_MODEL": try_model_of_autoguide,
    "prototype_frames": try_frames,
    "unchecked": try_unchecked,
    "version": try_version,
}


@pytest.mark.parametrize("name", TRIED)
def test_what_the_package_relies_on(name):
    TRIED[name]()


def used():
    """Names that other files take from both homes."""
    for path in PACKAGE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").endswith("internals"):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "internals":
                yield node.attr


def test_each_wrapper_is_used_and_tried():
    assert TRIED.keys() == set(used())


@pytest.mark.parametrize("owner", INHERITED)
def test_what_subclasses_call_or_override(owner):
    for name, expected in INHERITED[owner].items():
        given = inspect.getattr_static(owner, name)
        if expected is not None:
            assert list(inspect.signature(given).parameters)[: len(expected)] == expected, name


def test_messages_of_pyro_reach_the_methods_named_after_them():
    seen = []

    class Listening(Messenger):
        def _pyro_sample(self, msg):
            seen.append(("sample", msg["name"]))

        def _pyro_post_sample(self, msg):
            seen.append(("after", msg["name"], msg["value"]))

        def _pyro_post_param(self, msg):
            seen.append(("param", msg["name"], msg["value"].unconstrained().requires_grad))

    with Listening():
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.param("p", torch.ones(1), constraint=dist.constraints.positive)
    assert seen == [("sample", "z"), ("after", "z", z), ("param", "p", True)]
