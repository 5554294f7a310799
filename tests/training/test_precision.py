"""Mixed precision: networks in bfloat16, all that is a probability in float32."""

import contextlib
import copy
import warnings

import pytest
import torch
from pyro import poutine
from torch import nn
from torch.nn.functional import linear

from pyro_vae import Trainer, guides, likelihoods, load, models
from pyro_vae.handlers import scale_latents
from pyro_vae.infer import SVI, Graph, TraceELBO
from pyro_vae.programs.running import trace_pair
from pyro_vae.training.precision import BF16, TF32, networks

EPS = torch.finfo(torch.bfloat16).eps
LAYERS = (nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def vae(**options):
    options = {"likelihood": likelihoods.Gaussian(), "hidden": (16, 16), **options}
    return models.VAE((6,), options.pop("latents", 3), **options)


def built(model, guide):
    return model, guide(model)


def convolutional():
    model = models.VAE((1, 8, 8), (3, 2), likelihood=likelihoods.ContinuousBernoulli())
    return built(model, guides.BottomUp)


def quantised():
    model = models.VQVAE((1, 8, 8), 8, 4, likelihood=likelihoods.Gaussian(), channels=(8, 8))
    return built(model, guides.NearestCode)


PAIRS = {
    "one layer": lambda: built(vae(), guides.BottomUp),
    "conditional": lambda: built(vae(condition=3), guides.BottomUp),
    "ladder": lambda: built(vae(latents=(4, 3), norm=nn.BatchNorm1d), guides.Ladder),
    "flow": lambda: built(vae(), guides.Flow),
    "full covariance": lambda: built(vae(), guides.FullCovariance),
    "semi-amortized": lambda: built(vae(), lambda m: guides.SemiAmortized(guides.BottomUp(m))),
    "optimal sigma": lambda: built(vae(likelihood=likelihoods.Gaussian("optimal")), guides.Delta),
    "predicted sigma": lambda: built(
        vae(likelihood=likelihoods.Gaussian("predicted")), guides.BottomUp
    ),
    "convolutional": convolutional,
    "quantised": quantised,
}


@pytest.fixture(params=PAIRS)
def pair(request):
    torch.manual_seed(0)
    model, guide = PAIRS[request.param]()
    x = torch.rand(30, *model.event_shape)
    return model, guide, x, torch.arange(30) % 3 if getattr(model, "condition", 0) else None


def layers(*programs):
    """Every linear and convolutional layer, once."""
    return {m for program in programs for m in program.modules() if isinstance(m, LAYERS)}


def test_layers_run_in_half_and_every_density_in_single_precision(pair):
    model, guide, x, y = pair
    ran = {}
    handles = [
        layer.register_forward_hook(lambda m, _, out: ran.setdefault(m, set()).add(out.dtype))
        for layer in layers(model, guide)
    ]
    with BF16().on(model, guide, x, y):
        ran.clear()
        traces = trace_pair(model, guide, x, y)
    # Heads are layers and networks at once: these hooks, made first, see what the layer computed
    assert ran.keys() == layers(model, guide)
    assert all(types == {torch.bfloat16} for types in ran.values())
    for trace in traces:
        trace.compute_log_prob()
        for site in trace.nodes.values():
            for tensor in (site.get("value"), site.get("log_prob")):
                if isinstance(tensor, torch.Tensor) and tensor.is_floating_point():
                    assert tensor.dtype == torch.float32, site["name"]
    loss = -traces[0].log_prob_sum() + traces[1].log_prob_sum()
    loss.backward()
    for program in (model, guide):
        assert all(p.grad is None or p.grad.dtype == torch.float32 for p in program.parameters())
    for handle in handles:
        handle.remove()


def test_nothing_is_left_behind(pair):
    model, guide, x, y = pair

    def hooks():
        return [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in model.modules()]

    before = hooks()
    random = torch.get_rng_state()
    with pytest.raises(ZeroDivisionError):
        with BF16().on(model, guide, x, y):
            raise ZeroDivisionError
    assert before == hooks()
    assert torch.equal(random, torch.get_rng_state()) and not torch.is_autocast_enabled("cpu")


def test_an_error_in_a_network_ends_autocast():
    class Broken(nn.Module):
        def forward(self, x):
            if torch.is_autocast_enabled("cpu"):
                raise RuntimeError("broken")
            return x

    model = vae()
    guide = guides.BottomUp(model, encoder=Broken())
    with BF16().on(model, guide, torch.rand(4, 6)):
        with pytest.raises(RuntimeError, match="broken"):
            guide(torch.rand(4, 6))
        assert not torch.is_autocast_enabled("cpu")


def test_the_bound_is_that_of_weights_and_activations_rounded_to_bfloat16():
    """The same arithmetic, written out for a linear model: every operand is rounded first."""
    torch.manual_seed(0)
    model = vae(hidden=())
    guide, x = guides.Delta(model), torch.rand(5, 6)

    def half(layer, h):
        return linear(h.bfloat16(), layer.weight.bfloat16(), layer.bias.bfloat16()).float()

    loc = guide.conditionals["z1"].loc
    mean = half(model.decoder.layers[0], half(loc, x))
    expected = torch.distributions.Normal(mean, 1.0).log_prob(x).sum(-1)
    with BF16().on(model, guide, x):
        _, terms = TraceELBO()(model, guide, x)
    assert torch.equal(terms.reconstruction, expected)


def test_the_bound_is_close_to_that_of_single_precision(pair):
    """Rounding errors of a few layers: relative to the reconstruction, some multiples of eps."""
    model, guide, x, y = pair
    model.eval(), guide.eval()

    def terms():
        torch.manual_seed(1)
        with torch.no_grad():
            return TraceELBO()(model, guide, x, y)[1]

    single = terms()
    with BF16().on(model, guide, x, y):
        half = terms()
    scale = float(single.reconstruction.abs().mean())
    difference = float((half.elbo - single.elbo).abs().mean())
    assert 0 < difference < 4 * EPS * scale
    assert torch.equal(terms().elbo, single.elbo)


def test_the_recorded_graph_holds_the_casts(pair):
    *programs, x, y = pair
    runs = []
    for engine in (TraceELBO(), Graph(TraceELBO())):
        model, guide = copy.deepcopy(programs)
        torch.manual_seed(0)
        svi = SVI(model, guide, engine=engine)
        with BF16().on(model, guide, x, y), warnings.catch_warnings():
            # Some of these pairs cannot be recorded
            warnings.simplefilter("ignore")
            losses = [svi.step(x, y=y) for _ in range(4)]
        runs.append((losses, [m.state_dict() for m in (model, guide)]))
    assert runs[0][0] == runs[1][0]
    for one, other in zip(runs[0][1], runs[1][1], strict=True):
        for key, tensor in one.items():
            assert torch.equal(tensor, other[key]), key


def fitted(programs, x, *, epochs=1, **options):
    trainer = Trainer(*programs, lr=1e-3, seed=0, **options)
    return trainer.fit(x, epochs=epochs, batch_size=10, progress=False)


def rows(trainer):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]


def test_a_trainer_computes_in_its_precision():
    def run(precision):
        torch.manual_seed(0)
        return fitted(built(vae(), guides.BottomUp), torch.rand(30, 6), precision=precision)

    half, single = run("bf16").history[0], run("float32").history[0]
    assert half["elbo"] != single["elbo"] == pytest.approx(half["elbo"], rel=4 * EPS)


def test_a_file_holds_single_precision_under_the_same_names(pair, tmp_path):
    model, guide, x, y = pair
    names = [list(m.state_dict()) for m in (model, guide)]
    trainer = Trainer(model, guide, seed=0, precision="bf16")
    trainer.fit(x if y is None else (x, y), epochs=1, progress=False)
    trainer.save(tmp_path / "pair.pt")
    loaded = load(tmp_path / "pair.pt")
    assert loaded.precision == "bf16"
    assert [list(m.state_dict()) for m in loaded.modules()] == names
    for module in loaded.modules():
        for key, tensor in module.state_dict().items():
            assert not tensor.is_floating_point() or tensor.dtype == torch.float32, key
    for moments in loaded.state_dict()["moments"]:
        assert moments is None or moments["exp_avg"].dtype == torch.float32


def test_networks_of_a_wrapped_pair_and_of_plain_functions():
    model, guide = built(vae(), guides.BottomUp)
    x = torch.rand(4, 6)
    found = networks(model, guide, x)
    assert networks(scale_latents(model, 2.0), scale_latents(guide, 2.0), x) == found
    assert networks(lambda x: model(x), lambda x: guide(x), x) == found
    assert set(found) >= {model.decoder} and not layers(*found) ^ layers(model, guide)
    assert poutine.trace(guide).get_trace(x).nodes["z1"]["value"].dtype == torch.float32


def test_tf32_is_switched_on_for_the_run():
    before, seen = torch.get_float32_matmul_precision(), []

    class Look:
        def on_epoch_end(self, trainer, **kwargs):
            seen.append(torch.get_float32_matmul_precision())
            raise RuntimeError("stop")

    trainer = Trainer(*built(vae(), guides.BottomUp), precision="tf32")
    with pytest.raises(RuntimeError, match="stop"):
        trainer.fit(torch.rand(8, 6), epochs=1, callbacks=[Look()], progress=False)
    assert seen == ["high"] != [before] and torch.get_float32_matmul_precision() == before


def test_bad_precisions():
    with pytest.raises(ValueError, match="precision: expected 'float32' or 'tf32' or 'bf16', got"):
        Trainer(*built(vae(), guides.BottomUp), precision="fp16")
    model, guide = (m.double() for m in built(vae(), guides.BottomUp))
    trainer = Trainer(model, guide, precision=BF16())
    with pytest.raises(ValueError, match=r"'bf16' expects a pair in torch.float32, got .*float64"):
        trainer.fit(torch.rand(8, 6), epochs=1, progress=False)
    assert trainer.step == 0
    Trainer(model, guide, precision=TF32()).fit(torch.rand(8, 6), epochs=1, progress=False)


# Of torch's compiler about itself
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_compiling_a_network_in_place_renames_nothing(engine, tmp_path):
    def run(compiled):
        torch.manual_seed(0)
        model, guide = built(vae(), guides.BottomUp)
        names = [list(m.state_dict()) for m in (model, guide)]
        if compiled:
            model.decoder.compile(backend="eager")
            guide.conditionals["z1"].network.compile(backend="eager")
        assert [list(m.state_dict()) for m in (model, guide)] == names
        # Long enough for a graph, which torch does not record from a compiled module
        found = pytest.warns(UserWarning, match="not as a graph: a network is compiled by itself")
        with found if compiled and engine == "graph" else contextlib.nullcontext():
            trainer = fitted((model, guide), torch.rand(30, 6), epochs=40, engine=engine)
        trainer.save(tmp_path / "pair.pt")
        assert [list(m.state_dict()) for m in load(tmp_path / "pair.pt").modules()] == names
        return trainer

    assert rows(run(True)) == rows(run(False))
