"""Encoders and decoders as graphs of torch: the same numbers, in any batch size."""

import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import export, guides, infer, likelihoods, models

ROWS = torch.export.Dim("n")


def vae(event_shape=(6,), **options):
    torch.manual_seed(0)
    options = {"latents": (3, 2), "likelihood": likelihoods.Gaussian("learned"), **options}
    return models.VAE(event_shape, **options)


MODELS = {
    "labels": lambda: vae(condition=3, hidden=(8,), norm=nn.BatchNorm1d),
    "images": lambda: vae((1, 8, 8), likelihood=likelihoods.Bernoulli(), skip=True),
    "maps": lambda: vae((1, 8, 8), latents=((2, 4, 4), 2), likelihood=likelihoods.Bernoulli()),
}
GUIDES = (guides.BottomUp, guides.Ladder)


def data(model, n):
    x = torch.rand(n, *model.event_shape, generator=torch.Generator().manual_seed(n)).round()
    return (x, torch.arange(n) % 3) if model.condition else (x,)


def labels(given):
    return {"y": given[1]} if len(given) > 1 else {}


NAMES = ("labels", "images", pytest.param("maps", marks=pytest.mark.slow))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("guide", GUIDES)
def test_an_encoder_has_the_posterior_of_its_guide(name, guide):
    model = MODELS[name]()
    made = guide(model)
    graph = export.encoder(made)
    for n in (1, 2, 7):
        given = data(model, n)
        found, encoding = graph(*given), made.encode(given[0], **labels(given)).mean
        assert found.keys() == {f"{s}.{p}" for s in encoding for p in ("loc", "scale")}
        for site, mean in encoding.items():
            torch.testing.assert_close(found[f"{site}.loc"], mean)
    with infer.evaluating(made):
        conditioned = pyro.poutine.condition(made, encoding)
        trace = pyro.poutine.trace(conditioned).get_trace(given[0], **labels(given))
    for site in encoding:
        scale = trace.nodes[site]["fn"].stddev
        torch.testing.assert_close(found[f"{site}.scale"], scale)


@pytest.mark.parametrize("name", NAMES)
def test_a_decoder_has_the_likelihood_of_its_model(name):
    model = MODELS[name]()
    graph = export.decoder(model)
    for n in (1, 5):
        z = {site: torch.randn(n, *shape) for site, shape in model.latent_shapes.items()}
        y = {"y": torch.arange(n) % 3} if model.condition else {}
        found, p_x = graph(*z.values(), *y.values()), model.decode(z, **y)
        torch.testing.assert_close(found["mean"], p_x.mean)
        if "logits" in found:
            torch.testing.assert_close(found["logits"].sigmoid(), p_x.mean)
        else:
            torch.testing.assert_close(found["scale"], p_x.stddev)


def test_latents_that_are_not_given_take_their_means():
    model = vae()
    z = torch.randn(4, 2)
    found = export.decoder(model, sites=("z2",))(z)
    torch.testing.assert_close(found["mean"], model.decode({"z2": z}).mean)


def test_graphs_are_modules_for_torchs_own_tools():
    model = vae(latents=2, hidden=(8,))
    graph = export.encoder(guides.BottomUp(model))
    x = torch.randn(5, 6)
    expected = graph(x)["z1.loc"]
    again = torch.export.export(graph, (x[:3],), dynamic_shapes=({0: ROWS},)).module()
    torch.testing.assert_close(again(x)["z1.loc"], expected)
    compiled = torch.compile(graph, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(x)["z1.loc"], expected)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_a_graph_goes_to_onnx(tmp_path):
    for name in ("onnx", "onnxscript"):
        pytest.importorskip(name)
    runtime = pytest.importorskip("onnxruntime")
    graph = export.encoder(guides.BottomUp(vae(latents=2, hidden=(8,))))
    path, x = tmp_path / "encoder.onnx", torch.randn(5, 6)
    torch.onnx.export(graph, (x[:3],), path, dynamo=True, dynamic_shapes=({0: ROWS},))
    session = runtime.InferenceSession(path)
    (name,) = (given.name for given in session.get_inputs())
    found = session.run(None, {name: x.numpy()})
    for mine, other in zip(graph(x).values(), found, strict=True):
        torch.testing.assert_close(mine, torch.tensor(other), rtol=1e-4, atol=1e-5)


def test_a_graph_has_the_parameters_of_its_guide_and_leaves_it_as_it_is():
    model = vae(latents=2, hidden=(8,))
    guide = guides.BottomUp(model)
    modes = [m.training for m in guide.modules()]
    before = torch.random.get_rng_state()
    graph = export.encoder(guide)
    assert torch.equal(before, torch.random.get_rng_state())
    assert modes == [m.training for m in guide.modules()]
    with torch.no_grad():
        for parameter in guide.parameters():
            parameter.mul_(2.0)
    x = torch.randn(3, 6)
    torch.testing.assert_close(graph(x)["z1.loc"], guide.encode(x).mean["z1"])


def test_codes_of_a_vqvae():
    torch.manual_seed(0)
    vq = models.VQVAE((1, 8, 8), 8, 4, likelihood=likelihoods.Bernoulli())
    guide = guides.NearestCode(vq)
    x = torch.rand(5, 1, 8, 8).round()
    found = export.encoder(guide)(x)
    (codes,) = found.values()
    assert codes.shape == (5, 2, 2, 8)
    z = guide.encode(x).mean["z1"]
    torch.testing.assert_close(codes.argmax(-1), z.argmax(-1))
    torch.testing.assert_close(export.decoder(vq)(z)["mean"], vq.decode(z).mean)


def test_other_posteriors_have_their_own_parameters():
    model = vae(latents=2, hidden=(8,))
    x = torch.randn(3, 6)
    found = export.encoder(guides.FullCovariance(model))(x)
    assert {name: tuple(value.shape) for name, value in found.items()} == {
        "z1.loc": (3, 2),
        "z1.scale_tril": (3, 2, 2),
    }


def test_what_no_graph_can_hold_is_refused_by_name():
    model = vae(latents=2, hidden=(8,))
    with pytest.raises(TypeError, match=r"guide: .* got Flow \(site 'z1' has a .*infer\.encode"):
        export.encoder(guides.Flow(model))
    given = vae(latents=2, hidden=(8,), condition=models.Covariates(numbers=1))
    with pytest.raises(TypeError, match=r"model: expected a model of classes .*infer\.decode"):
        export.decoder(given)
    tokens = vae(latents=2, likelihood=likelihoods.Tokens(5))
    with pytest.raises(
        TypeError, match=r"model: .* got a SequenceDecoder, which sees x .*infer\.decode"
    ):
        export.decoder(tokens)


def test_programs_of_ones_own_are_refused_by_name():
    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z, 1.0), obs=x)

    guide = guides.BottomUp(model, like=torch.randn(4), hidden=(4,))
    with pytest.raises(TypeError, match=r"guide: expected one that was built for a models\.VAE"):
        export.encoder(guide)
    with pytest.raises(TypeError, match=r"model: expected a models\.VAE or VQVAE, got model"):
        export.decoder(model)
    with pytest.raises(ValueError, match=r"did you mean|z9"):
        export.decoder(vae(), sites=("z9",))
    with pytest.raises(ValueError, match="sites: expected some of"):
        export.decoder(vae(), sites=())
    assert infer.structure(vae()).latents
