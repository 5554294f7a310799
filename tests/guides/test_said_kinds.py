"""What programs of one's own say of what kind their data are, and what is made of it."""

import warnings

import matplotlib.collections
import pyro
import pyro.distributions as dist
import pytest
import torch
from torch import nn

from pyro_vae import (
    Trainer,
    data,
    diagnostics,
    guides,
    handlers,
    infer,
    likelihoods,
    models,
    plots,
)
from pyro_vae.data.arguments import Arguments
from pyro_vae.networks import SequenceEncoder

SHAPES = {"sequence": (5, 3), "signal": (2, 16), "video": (1, 4, 8, 8), "array": (5, 3)}
MAKERS = {
    "BottomUp": guides.BottomUp,
    "Composed": lambda m, **o: guides.Composed(guides.BottomUp(m, **o)),
    "Flow": guides.Flow,
    "FullCovariance": guides.FullCovariance,
    "Ladder": guides.Ladder,
    "SemiAmortized": lambda m, **o: guides.SemiAmortized(guides.BottomUp(m, **o), steps=1),
}
kinds = pytest.mark.parametrize("kind", SHAPES)


class Program(nn.Module):
    """Numbers of any shape, linear in z."""

    def __init__(self, shape, kind=None):
        super().__init__()
        torch.manual_seed(0)
        self.shape, self.loc = shape, nn.Linear(2, torch.Size(shape).numel())
        if kind is not None:
            self.kind = kind

    def forward(self, x):
        prior = dist.Normal(torch.zeros(2), 1.0).to_event(1)
        with pyro.plate("data", len(x)):
            loc = self.loc(pyro.sample("z", prior)).unflatten(-1, self.shape)
            pyro.sample("x", dist.Normal(loc, 0.5).to_event(len(self.shape)), obs=x)


def values(kind, n=6):
    torch.manual_seed(3)
    return torch.randn(n, *SHAPES[kind])


def readers(guide):
    """How many dimensions networks convolve, 0 for one that goes through places in turn."""
    found = {0 for m in guide.modules() if isinstance(m, SequenceEncoder)}
    for i, cls in enumerate((nn.Conv1d, nn.Conv2d, nn.Conv3d), 1):
        found |= {i for m in guide.modules() if isinstance(m, cls)}
    return found


WANTED = {"sequence": {0}, "signal": {1}, "video": {3}, "array": set()}


@kinds
@pytest.mark.parametrize("make", MAKERS.values(), ids=MAKERS)
def test_every_guide_reads_them_so(make, kind):
    """Whoever says it: the program by one name or by argument, its module, or the data."""
    x = values(kind)
    said = data.Dataset(x, kind=kind)
    guide = make(Program(x.shape[1:], kind), like=x)
    assert readers(guide) == WANTED[kind]
    assert readers(make(Program(x.shape[1:], {"x": kind}), like=x)) == WANTED[kind]
    assert readers(make(Program(x.shape[1:], kind).forward, like=x)) == WANTED[kind]
    assert readers(make(handlers.missing(Program(x.shape[1:])), like=said)) == WANTED[kind]
    terms = infer.elbo_terms(guide.model, guide, x)
    assert terms.elbo.isfinite().all()


@kinds
def test_what_the_data_say_is_trained_on_and_drawn(kind):
    x = values(kind)
    said, model = data.Dataset(x, kind=kind), Program(x.shape[1:])
    guide = guides.BottomUp(model, like=said)
    trainer = Trainer(model, guide, seed=0).fit(said, epochs=1, progress=False)
    assert trainer.history[0]["elbo"] < 0
    titles = [ax.get_title() for ax in plots.outliers(model, guide, said, n=2).axes]
    assert any("least likely" in title for title in titles)


def curves(axes):
    return [c for ax in axes for c in ax.collections]


def test_programs_that_say_a_sequence_are_drawn_as_curves():
    x = values("sequence")
    for model in (Program(x.shape[1:], "sequence"), Program(x.shape[1:], {"x": "sequence"})):
        guide = guides.BottomUp(model, like=x)
        figure = plots.reconstructions(model, guide, x)
        found = curves(figure.axes)
        assert found and isinstance(found[0], matplotlib.collections.LineCollection)
    plain = Program(x.shape[1:])
    assert not curves(plots.reconstructions(plain, guide, x).axes)
    # Data that say so themselves
    x.kind = "sequence"
    assert curves(plots.reconstructions(plain, guide, x).axes)


def test_a_guess_is_told_once_and_shown():
    x = values("sequence")
    model = Program(x.shape[1:])
    with pytest.warns(UserWarning, match=r"x: data of shape .* are read as images, a guess"):
        guide = guides.BottomUp(model, like=x)
    assert "x (5, 3) image, a guess" in repr(guide)
    with warnings.catch_warnings(action="error"):
        guides.Flow(model, start=guide)
        # Pictures with channels are known by their shape, and so are vectors
        for shape in ((3, 8, 8), (4,)):
            assert "guess" not in repr(
                guides.BottomUp(Program(shape), like=torch.randn(6, *shape))
            )
        told = guides.BottomUp(Program(x.shape[1:], "sequence"), like=x)
        # Dense networks and those of a user read any data alike
        assert "guess" not in repr(guides.Ladder(model, like=x, hidden=(8,)))
        encoder = nn.Sequential(nn.Flatten(), nn.Linear(15, 4))
        assert "guess" not in repr(guides.BottomUp(model, like=x, encoder=encoder))
    assert "x (5, 3) sequence\n" in repr(told)


@kinds
def test_kinds_that_do_not_fit_are_named_before_training(kind):
    x = values(kind)
    other = "vector"
    for model, like in (
        (Program(x.shape[1:], other), x),
        (Program(x.shape[1:], {"x": other}), x),
    ):
        with pytest.raises(ValueError, match="kind of 'x': expected a datum of shape"):
            guides.BottomUp(model, like=like)
    model = Program(x.shape[1:], kind)
    guide = guides.BottomUp(model, like=x)
    wrong = data.Dataset(x, kind="array" if kind != "array" else "sequence")
    with pytest.raises(ValueError, match=f"of kind '{wrong.kind}', got a Program for '{kind}'"):
        guides.BottomUp(model, like=wrong)
    for programs in ((model, guide), (Program(x.shape[1:]), guide)):
        with pytest.raises(ValueError, match=f"of kind '{wrong.kind}', got a .* for '{kind}'"):
            Trainer(*programs).fit(wrong, epochs=1, progress=False)
    with pytest.raises(ValueError, match="of kind"):
        diagnostics.evaluate(model, guide, wrong)


def test_other_attributes_of_the_name_count_for_nothing():
    x = torch.randn(6, 4)
    for kind in ("lstm", 3, {"depth": 2}):
        model = Program((4,), kind)
        assert readers(guides.BottomUp(model, like=x)) == set()
        assert plots.samples(model, 2, like=x) is not None


class Pair(nn.Module):
    """A sequence and a text of one z, and a number that is given."""

    def __init__(self):
        super().__init__()
        self.loc = nn.Linear(2, 12)
        self.decoder = models.SequenceDecoder((5,), 2, outputs=6, width=8)
        self.tokens = likelihoods.Tokens(6)
        self.kind = {"motion": "sequence"}

    def forward(self, motion, text, speed):
        with pyro.plate("data", len(motion)):
            z = pyro.sample("z", dist.Normal(speed.unsqueeze(-1).expand(-1, 2), 1.0).to_event(1))
            loc = self.loc(z).unflatten(-1, (4, 3))
            pyro.sample("motion", dist.Normal(loc, 1.0).to_event(2), obs=motion)
            pyro.sample("text", self.decoder.distribution(self.tokens, z), obs=text)


def pairs(n=7):
    torch.manual_seed(0)
    text = torch.randint(1, 5, (n, 5))
    text[::2, 3:] = 0
    return {"motion": torch.randn(n, 4, 3), "text": text, "speed": torch.randn(n)}


@pytest.mark.parametrize("make", [guides.BottomUp, guides.Ladder])
def test_several_of_them_are_read_side_by_side(make):
    """And text is known by the distribution that observes it."""
    model, given = Pair(), pairs()
    guide = make(model, like=given)
    found = [m for m in guide.modules() if isinstance(m, SequenceEncoder)]
    assert [m.event_shape for m in found] == [(4, 3), (5,)]
    assert found[1].reader.num_embeddings == 6  # one that these data lack among them
    x = Arguments((), given)
    mean = infer.encode(guide, x).mean["z"]
    # Each place, word and number is seen; what follows the end of a text is not
    for name, row, place, seen in (
        ("motion", 0, (0, 0), True),
        ("motion", 0, (3, 2), True),
        ("text", 1, (4,), True),
        ("speed", 0, (), True),
    ):
        changed = {k: v.clone() for k, v in given.items()}
        changed[name][(row, *place)] += 1
        after = infer.encode(guide, Arguments((), changed)).mean["z"]
        assert bool((after[row] != mean[row]).any()) is seen
        others = torch.arange(len(mean)) != row
        assert torch.allclose(after[others], mean[others], atol=1e-6)
    trainer = Trainer(model, guide, seed=0).fit(given, epochs=1, progress=False)
    assert trainer.history[0]["elbo"] < 0


def test_hidden_widths_make_dense_networks_of_vectors_alone():
    guide = guides.BottomUp(Pair(), like=pairs(), hidden=(8,))
    found = [m for m in guide.modules() if isinstance(m, SequenceEncoder)]
    assert [m.event_shape for m in found] == [(5,)]


def test_sequences_are_standardised_by_column_and_masked_place_by_place():
    x = values("sequence", 50) * torch.tensor([1.0, 10.0, 100.0]) + 5
    model = handlers.missing(Program((5, 3), "sequence"))
    x[0, 2, 1] = torch.nan
    guide = guides.BottomUp(model, like=x)
    seen = {}
    (reader,) = (m for m in guide.modules() if isinstance(m, SequenceEncoder))
    reader.register_forward_pre_hook(lambda _, args: seen.update(x=args[0]))
    guide(x)
    number, mask = seen["x"].chunk(2, -1)
    assert mask[0, 2].tolist() == [1.0, 0.0, 1.0] and number[0, 2, 1] == 0
    assert mask.sum() == mask.numel() - 1
    assert torch.allclose(number[1:].flatten(0, 1).std(0), torch.ones(3), atol=0.2)
    assert number[1:].flatten(0, 1).mean(0).abs().max() < 0.2


def test_a_text_that_is_missing_is_a_word_of_its_own():
    def model(text=None, size=None):
        with pyro.plate("data", len(text)):
            z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            logits = (z @ torch.ones(2, 15)).unflatten(-1, (5, 3))
            pyro.sample("text", likelihoods.Tokens(3)(logits), obs=text)

    text = torch.tensor([[1.0, 2, 0, 0, 0], [2, 1, 1, 1, 2], [0, 0, 0, 0, 0]])
    guide = guides.BottomUp(handlers.missing(model), like=text)
    (reader,) = (m for m in guide.modules() if isinstance(m, SequenceEncoder))
    assert reader.reader.num_embeddings == 4
    gone = text.clone()
    gone[0] = torch.nan
    means = [infer.encode(guide, v).mean["z"] for v in (text, gone)]
    assert torch.equal(means[0][1:], means[1][1:])
    assert not torch.allclose(means[1][0], means[0][0])
    assert not torch.allclose(means[1][0], means[0][2])  # no empty line either


@pytest.mark.parametrize("condition", [0, 2])
@pytest.mark.parametrize("maker", ["BottomUp", "Flow", "FullCovariance", "Ladder"])
def test_guides_of_a_vae_take_a_data_set(maker, condition):
    vae = models.VAE((4,), 2, hidden=(3,), likelihood=likelihoods.Gaussian(), condition=condition)
    x = data.Dataset(torch.zeros(6, 4), torch.arange(6) % 2 if condition else None)
    guide = MAKERS[maker](vae, like=x)
    assert guide.latents == MAKERS[maker](vae).latents
