"""Compiled graphs against the program itself."""

import copy
import functools
import json
import logging
import warnings

import pytest
import torch
from processes import started
from torch import nn
from torch._inductor.cpu_vec_isa import pick_vec_isa

from pyro_vae import guides, likelihoods, models
from pyro_vae.infer import SVI
from pyro_vae.infer.engine.compiled import Compiler
from pyro_vae.infer.engine.internals import Operator, compiled
from pyro_vae.infer.engine.rewriting import of_operators, recorded


def pair():
    vae = models.VAE((6,), 3, likelihood=likelihoods.Bernoulli(), hidden=(8,), norm=nn.BatchNorm1d)
    return vae, guides.BottomUp(vae)


def flat(*programs):
    return torch.cat(
        [t.detach().flatten().float() for p in programs for t in p.state_dict().values()]
    )


@pytest.mark.slow
@pytest.mark.filterwarnings("default")
def test_compiled_steps_equal_eager_up_to_rounding_and_announce_their_time(caplog):
    eager = pair()
    compiled_pair = copy.deepcopy(eager)
    batches = torch.randint(2, (8, 20, 6)).float()
    losses, terms = {}, {}
    with caplog.at_level(logging.INFO, "pyro_vae"):
        for engine, programs in (("eager", eager), ("compile", compiled_pair)):
            # Not Adam, which makes whole steps of gradients that are rounding errors only
            svi = SVI(*programs, functools.partial(torch.optim.SGD, lr=1e-3), engine=engine)
            with torch.random.fork_rng():
                losses[engine] = torch.stack([svi.step(x) for x in batches])
            terms[engine] = svi.terms.elbo
    torch.testing.assert_close(losses["compile"], losses["eager"], rtol=1e-4, atol=0)
    torch.testing.assert_close(terms["compile"], terms["eager"], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(flat(*compiled_pair), flat(*eager), rtol=1e-3, atol=1e-4)
    (message,) = [record.getMessage() for record in caplog.records if record.name == "pyro_vae"]
    assert message.startswith("compiled a step of ") and message.endswith(" s")


def test_where_compiling_fails_the_graph_runs_with_a_notice(monkeypatch):
    def broken(*args, **kwargs):
        raise RuntimeError("no C++ compiler\nand many more lines")

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", broken)
    eager, graph = pair(), None
    twins = copy.deepcopy(eager)
    x = torch.zeros(4, 6)
    expected = SVI(*eager, engine="graph")
    graph = SVI(*twins, engine="compile")
    losses = []
    for svi in (expected, graph):
        with torch.random.fork_rng(), warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            losses.append([float(svi.step(x)) for _ in range(3)])
    assert losses[0] == losses[1]
    assert [str(w.message) for w in caught] == [
        "the recorded graph runs uncompiled: no C++ compiler"
    ]


def test_announcements_go_where_they_are_asked_to(monkeypatch):
    monkeypatch.setattr(
        "torch._inductor.compile_fx.compile_fx", lambda graph, inputs, **kwargs: graph.forward
    )
    told = []
    graph = torch.fx.symbolic_trace(lambda x: (x * 2,))
    run = Compiler(told.append)(graph, [torch.ones(2)])
    assert torch.equal(run(torch.ones(2))[0], torch.full((2,), 2.0))
    assert len(told) == 1 and told[0].startswith("compiled a step of ")


def test_compilers_are_given_operators_to_the_same_bits():
    x, weight = torch.randn(4, 3), torch.randn(2, 3)
    graph, constants = recorded(
        lambda x, w: (nn.functional.linear(x, w).view(-1).expand(2, 8).exp().sum(),), (x, weight)
    )
    operators = of_operators(graph)
    inputs = (x, weight, *constants)
    assert torch.equal(operators(*inputs)[0], graph(*inputs)[0])
    targets = [node.target for node in operators.graph.nodes if node.op == "call_function"]
    own = [t for t in targets if not isinstance(t, Operator)]
    assert own == [nn.functional.linear] and len(targets) > 3
    assert torch.Tensor.view in [node.target for node in graph.graph.nodes]


@pytest.mark.parametrize("capability", ["default", "avx2", "avx512"])
def test_what_is_compiled_for_other_vectors_is_not_taken(capability, monkeypatch):
    monkeypatch.setenv("ATEN_CPU_CAPABILITY", capability)
    keys = []
    monkeypatch.setattr(
        "torch._inductor.compile_fx.compile_fx",
        lambda *args, config_patches: keys.append(config_patches["cpp.simdlen"]),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a processor without them
        compiled(None, [])
        assert keys == [pick_vec_isa().bit_width()]
    if capability == "default":
        assert keys == [0]


def count_compilations(folder):
    torch.manual_seed(0)
    x = torch.randint(2, (20, 6)).float()
    svi = SVI(*pair(), engine="compile")
    losses = [float(svi.step(x)) for _ in range(3)]
    from torch._dynamo.utils import counters

    found = [counters["aot_autograd"], counters["inductor"]]
    (folder / "found.json").write_text(json.dumps([*found, losses]))


@pytest.mark.slow
def test_a_new_process_takes_what_another_has_compiled_from_the_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    found = []
    for _ in range(2):
        assert started(count_compilations, tmp_path).wait() == 0
        found.append(json.loads((tmp_path / "found.json").read_text()))
    (cold, compiled, losses), (warm, taken, again) = found
    assert cold["autograd_cache_miss"] == cold["autograd_cache_saved"] == 1
    assert warm["autograd_cache_hit"] == 1 and "autograd_cache_miss" not in warm
    assert compiled["fxgraph_cache_miss"] == 1 and "fxgraph_cache_miss" not in taken
    assert again == losses
