"""The panel by calls, against a trainer that is driven by hand."""

import re
import sys

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro.infer.autoguide import AutoNormal
from torch import nn

from pyro_vae import Trainer, data, guides, infer, likelihoods, models, notebook

D = data.load(
    data.Dataset(
        torch.rand(60, 1, 8, 8, generator=torch.Generator().manual_seed(0)).round(),
        torch.arange(60) % 3,
    ),
    test_fraction=0.2,
)
GUIDES = {"bottom-up": guides.BottomUp, "ladder": guides.Ladder}


def vae(likelihood=None, **options):
    torch.manual_seed(0)
    likelihood = likelihood or likelihoods.Bernoulli()
    return models.VAE((1, 8, 8), (4, 2), likelihood=likelihood, hidden=(8,), **options)


def panel(**options):
    return notebook.Panel({"Bernoulli": vae()}, GUIDES, D, batch_size=16, **options)


def state(panel):
    return {k: v.clone() for k, v in [*panel.model.state_dict().items(), *panel_guides(panel)]}


def panel_guides(panel):
    return [(f"{n}.{k}", v) for n, g in panel.guides.items() for k, v in g.state_dict().items()]


def test_calls_are_a_trainer_driven_by_hand():
    by_panel = panel(seed=3).train(2).choose(guide="ladder", beta=0.5).train(1)
    by_panel.choose(guide="bottom-up", freeze_model=True).train(1)

    model, built = vae(), {}
    for name, factory in GUIDES.items():
        torch.manual_seed(3)
        built[name] = factory(model)
    trainer = Trainer(model, built["bottom-up"], seed=3)
    fit = {"batch_size": 16, "validation": D.test, "progress": False}
    trainer.fit(D.train, epochs=2, **fit).swap_guide(built["ladder"])
    trainer.beta = 0.5
    trainer.fit(D.train, epochs=1, **fit)
    trainer.swap_guide(built["bottom-up"], freeze_model=True).fit(D.train, epochs=1, **fit)

    def rows(trainer):
        return [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]

    assert rows(by_panel.trainer) == rows(trainer)
    assert [row["frozen"] for row in trainer.history] == [False, False, False, True]
    for name, parameter in built["ladder"].state_dict().items():
        assert torch.equal(by_panel.guides["ladder"].state_dict()[name], parameter)


def test_each_model_has_a_run_and_guides_of_its_own():
    both = {"Bernoulli": vae(), "Gaussian": vae(likelihoods.Gaussian(0.5))}
    p = notebook.Panel(both, GUIDES, {"Bernoulli": D, "Gaussian": D}).train(1)
    first = p.trainer
    p.choose(model="Gaussian").train(2)
    assert p.trainer is not first and (len(first.history), len(p.trainer.history)) == (1, 2)
    assert p.guide.model is both["Gaussian"] and p.choose(model="Bernoulli").trainer is first


def test_the_picture_shows_the_chosen_pair_and_changes_nothing():
    p = panel(images=5).train(1).choose(guide="ladder")
    before, rng, stream = state(p), torch.get_rng_state(), p.trainer.state_dict()["random"]["cpu"]
    figure = p.show()
    again = p.show()
    assert torch.equal(rng, torch.get_rng_state())
    assert torch.equal(stream, p.trainer.state_dict()["random"]["cpu"])
    assert all(torch.equal(v, before[k]) for k, v in state(p).items())
    assert [ax.get_title() for ax in figure.axes[1:]] == ["bound", "KL per site"]
    assert [t.get_text() for t in figure.axes[0].get_yticklabels()] == [
        "data",
        "reconstruction",
        "sample",
    ]
    drawn = torch.tensor(figure.axes[0].images[0].get_array()[..., 0])
    assert torch.equal(drawn, torch.tensor(again.axes[0].images[0].get_array()[..., 0]))
    expected = infer.reconstruct(p.model, p.guide, D.test.x[:5])
    gap = 1
    for row, value in enumerate([D.test.x[:5], expected]):
        top = gap + row * (8 + gap)
        for i in range(5):
            left = gap + i * (8 + gap)
            cell = drawn[top : top + 8, left : left + 8]
            torch.testing.assert_close(cell, value[i, 0], rtol=0, atol=1e-6)


def test_labels_reach_a_conditional_pair():
    p = notebook.Panel({"given y": vae(condition=3)}, GUIDES, D, images=4).train(1)
    assert len(p.show().axes) == 3 and list(p.compare(5)) == ["bottom-up"]


def test_an_interrupted_epoch_is_told_and_drawn(capsys):
    class Interrupt:
        def on_step_end(self, **kwargs):
            raise KeyboardInterrupt

    p = panel().train(1, callbacks=[Interrupt()])
    assert p.trainer.history[-1]["interrupted"] and "test data" not in p.status
    assert len(p.show().axes) == 3 and "test data" in p.train(1).status


def test_vectors_are_drawn_too():
    d = data.load(torch.randn(40, 6))
    model = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,))
    p = notebook.Panel({"table": model}, {"bottom-up": guides.BottomUp}, d, images=3)
    figure = p.show()
    assert figure.axes[0].images[0].get_array().shape[0] == 3 and "not trained yet" in repr(p)


def test_the_table_has_the_guides_that_were_used():
    p = panel().train(1)
    assert list(p.compare(5)) == ["bottom-up"]
    table = p.choose(guide="ladder").compare(5)
    assert list(table) == ["bottom-up", "ladder"]
    terms = table["ladder"].terms.elbo
    bound = infer.elbo_terms(p.model, p.guide, D.test.x).elbo
    assert abs(float(terms.mean() - bound.mean())) < 1.0


def test_a_bad_choice_leaves_the_choice_as_it_was():
    p = notebook.Panel({"Bernoulli": vae()}, {**GUIDES, "codes": guides.NearestCode}, D)
    for bad, error, message in [
        ({"guide": "laddr"}, ValueError, "did you mean 'ladder'"),
        ({"model": "Poisson"}, ValueError, "model: expected one of Bernoulli, got 'Poisson'"),
        (
            {"guide": "ladder", "beta": -1.0},
            ValueError,
            "beta: expected a finite number >= 0, got -1.0",
        ),
        ({"beta": float("nan")}, ValueError, "beta: expected a finite number >= 0, got nan"),
        ({"guide": "codes", "beta": 2.0}, TypeError, "expected a models.VQVAE"),
    ]:
        with pytest.raises(error, match=re.escape(message)):
            p.choose(**bad)
        assert isinstance(p.guide, guides.BottomUp) and p.trainer.beta == 1.0
        assert p.trainer.guide is p.guide
    assert len(p.train(1).trainer.history) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([vae], GUIDES, D), TypeError, "models: expected a mapping from a name, got list"),
        (({"a": None}, {}, D), ValueError, "guides: expected at least one"),
        (({"a": None, "b": None}, GUIDES, {"a": D}), ValueError, "got none for ['b']"),
    ],
)
def test_bad_arguments(arguments, error, message):
    with pytest.raises(error, match=re.escape(message)):
        notebook.Panel(*arguments)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beta": -0.5}, "beta: expected a finite number >= 0, got -0.5"),
        ({"lr": 0.0}, "lr: expected a positive finite number, got 0.0"),
        ({"lr": "fast"}, "lr: expected a positive finite number, got 'fast'"),
        ({"batch_size": 0}, "batch_size: expected a whole number of at least 1, got 0"),
        ({"images": 2.5}, "images: expected a whole number of at least 1, got 2.5"),
        ({"seed": "a"}, "seed: expected a whole number"),
    ],
)
def test_bad_numbers_are_refused_at_once(options, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        notebook.Panel({"Bernoulli": vae()}, GUIDES, D, **options)


@pytest.mark.parametrize("epochs", [0, -1, 1.5, float("nan"), "many"])
def test_a_bad_number_of_epochs_trains_nothing(epochs):
    p = panel()
    with pytest.raises(ValueError, match="epochs: expected a whole number of at least 1"):
        p.train(epochs)
    assert not p.trainer.history and p.train(1).trainer.step == 3


@pytest.mark.parametrize("lr", [0, -1e-3, float("nan"), float("inf"), "fast"])
def test_a_bad_learning_rate_changes_nothing(lr):
    p = panel(lr=0.01)
    with pytest.raises(ValueError, match="lr: expected a positive finite number"):
        p.choose(lr=lr, guide="ladder")
    assert p.lr == p.trainer.lr == 0.01 and isinstance(p.guide, guides.BottomUp)


def test_a_factory_that_fails_leaves_the_choice_as_it_was():
    def broken(model):
        raise KeyError("no such part")

    p = notebook.Panel({"Bernoulli": vae()}, {**GUIDES, "broken": broken}, D)
    with pytest.raises(KeyError, match="no such part"):
        p.choose(guide="broken", beta=2.0)
    assert list(p.guides) == ["bottom-up"] and p.trainer.beta == 1.0
    assert p.chosen["guide"] == "bottom-up" and list(p.compare(5)) == ["bottom-up"]


def bound(panel, guide, seed):
    torch.manual_seed(seed)
    return float(infer.elbo_terms(panel.model, panel.guides[guide], D.test.x).elbo.mean())


def test_the_status_tells_of_the_chosen_guide():
    twins = {"first": guides.BottomUp, "second": lambda m: guides.BottomUp(m, hidden=(4,))}
    p = notebook.Panel({"Bernoulli": vae()}, twins, D, batch_size=16, seed=3).train(2)
    row = p.trainer.history[1]
    last = f"first, beta 1: epoch 2, elbo {row['elbo']:.2f}, "
    assert f"{last}on test data {row['validation']['elbo']:.2f} nats" in p.status
    p.choose(guide="second")
    assert p.status == "Bernoulli, second, beta 1: not trained yet"
    p.train(1).choose(guide="first")
    now = f"{last}now {bound(p, 'first', 3):.2f} nats per datum on test data"
    assert p.status == f"Bernoulli, {now}" and p.status == repr(p)[6:-1]
    p.choose(guide="second")
    assert f"second, beta 1: epoch 3, elbo {p.trainer.history[2]['elbo']:.2f}, on" in p.status
    # By hand
    p.trainer.fit(D.train, epochs=1, progress=False)
    assert f"second, beta 1: epoch 4, elbo {p.trainer.history[3]['elbo']:.2f} nats" in p.status
    p.choose(guide="first")
    again = f"{last}now {bound(p, 'first', 3):.2f} nats per datum on test data"
    assert p.status == f"Bernoulli, {again}" and again != now


def test_a_learning_rate_is_that_of_the_next_step():
    rates = []

    class Choose:
        def on_step_end(self, trainer, **kwargs):
            rates.append(trainer.optimizer.param_groups[0]["lr"])
            if trainer.step == 2:
                p.choose(lr=0.5e-3)
            with pytest.raises(RuntimeError, match="choose: expected a panel at rest"):
                p.choose(beta=2.0)
            with pytest.raises(RuntimeError, match="train: expected a panel at rest"):
                p.train(1)

    p = panel(lr=0.01)
    p.train(1, callbacks=[Choose()])
    assert rates == [0.01, 0.01, 0.5e-3] and p.lr == 0.5e-3
    assert p.choose(guide="ladder", beta=2.0).train(1).trainer.history[1]["lr"] == 0.5e-3


def test_stop_ends_the_run_after_its_step(capsys):
    class Stop:
        def on_step_end(self, trainer, **kwargs):
            if trainer.step == 4:
                assert p.stop() is p

    p = panel(seed=2)
    p.train(5, callbacks=[Stop()])
    assert p.trainer.step == 4 and p.trainer.history[-1]["interrupted"]
    assert "epoch 2 in part, elbo" in p.status
    assert "stopped by stop() after 4 steps; the trainer is usable" in capsys.readouterr().out
    assert p.train(1).trainer.step == 7 and "in part" not in p.status
    # At rest there is nothing to stop
    assert p.stop().train(1).trainer.step == 10


def test_stop_at_the_end_of_an_epoch_ends_the_run_there():
    class Stop:
        def on_epoch_end(self, **kwargs):
            p.stop()

    p = panel()
    p.train(5, callbacks=[Stop()])
    assert len(p.trainer.history) == 1 and "interrupted" not in p.trainer.history[0]


def test_ctrl_c_is_no_stop(monkeypatch):
    class Interrupt:
        def on_step_end(self, **kwargs):
            raise KeyboardInterrupt

    p = panel()
    with pytest.raises(KeyboardInterrupt):
        p.train(1, callbacks=[Interrupt()], on_interrupt="raise")
    assert p.train(1).trainer.history[-1]["epoch"] == 2


def test_the_map_shows_the_means_of_the_site_that_says_most():
    p = notebook.Panel({"Bernoulli": vae()}, GUIDES, D, batch_size=16).train(2)
    means = infer.encode(p.guide, D.test.x).mean
    before, rng = state(p), torch.get_rng_state()
    spread = {site: float(m.var(0, correction=0).sum()) for site, m in means.items()}
    ax = p.latent_map()
    assert f"of {max(spread, key=spread.get)} (" in ax.get_xlabel()
    assert [t.get_text() for t in ax.get_legend().get_texts()] == ["0", "1", "2"]
    assert sum(len(c.get_offsets()) for c in ax.collections) == 12
    points = torch.tensor(p.latent_map(site="z2").collections[0].get_offsets().data)
    torch.testing.assert_close(points, means["z2"][D.test.y == 0].double())
    assert torch.equal(rng, torch.get_rng_state())
    assert all(torch.equal(v, before[k]) for k, v in state(p).items())


class Counts(nn.Module):
    """Poisson counts with an exposure per datum: no picture, two arguments."""

    def __init__(self):
        super().__init__()
        self.weights = nn.Parameter(torch.full((2, 5), 0.1))

    def forward(self, counts, exposure):
        with pyro.plate("units", len(counts)):
            u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
            rate = (u @ self.weights).exp() * exposure[:, None]
            pyro.sample("counts", dist.Poisson(rate).to_event(1), obs=counts)


class CountsGuide(nn.Module):
    def __init__(self, model):
        super().__init__()
        self.layer = nn.Linear(5, 2)

    def forward(self, counts, exposure):
        with pyro.plate("units", len(counts)):
            pyro.sample("u", dist.Normal(self.layer(counts.float()), 0.5).to_event(1))


@pytest.mark.parametrize("by_name", [False, True])
def test_a_program_of_ones_own_shows_what_there_is(by_name):
    counts, exposure = torch.poisson(torch.full((40, 5), 2.0)).long(), torch.rand(40) + 0.5
    d = (counts, exposure)
    if by_name:
        d = {"counts": {"counts": counts, "exposure": exposure}}
    p = notebook.Panel({"counts": Counts()}, {"own": CountsGuide}, d, batch_size=20)
    text = p.train(1).show().axes[0].texts[0].get_text()
    assert "ELBO" in text and "reconstruction" in text and "KL u" in text
    assert "own, beta 1: epoch 1, elbo" in p.status and len(p.compare(5)["own"].terms.elbo) == 40
    assert (
        p.latent_map().get_xlabel() == "u[0]"
        and len(p.compare(5, most=10)["own"].terms.elbo) == 10
    )


def scalar(x):
    weight = pyro.param("weight", torch.ones(6))
    with pyro.plate("data", len(x)):
        u = pyro.sample("u", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(u[:, None] * weight, 1.0).to_event(1), obs=x)


def test_functions_and_a_tensor_are_drawn_and_what_cannot_be_is_told():
    def guide(x):
        weight = pyro.param("readout", torch.zeros(6))
        with pyro.plate("data", len(x)):
            pyro.sample("u", dist.Normal(x @ weight, 1.0))

    x = torch.randn(40, 6)
    p = notebook.Panel({"own": scalar}, {"own": lambda m: guide}, x, images=3).train(1)
    labels = p.show().axes[0].images[0].get_array()
    assert labels.shape[0] == 3
    with pytest.raises(ValueError, match="site"):
        p.latent_map()
    with pytest.raises(TypeError, match="freeze_model: expected a model that is a module"):
        p.choose(freeze_model=True)
    assert p.chosen["freeze_model"] is False and p.train(1).trainer.step == 2


def test_a_guide_with_a_place_for_each_datum_is_drawn():
    x = torch.randn(40, 6)
    factories = {"auto": lambda m: AutoNormal(m)}
    p = notebook.Panel({"own": scalar}, factories, x, batch_size=40, images=3).train(1)
    assert p.show().axes[0].images[0].get_array().shape[0] == 3
    assert len(p.compare(5, most=10)["auto"].terms.elbo) == 40


def test_what_cannot_be_drawn_is_told_beside_the_curves():
    class Silent(CountsGuide):
        def forward(self, counts, exposure):
            if not self.training:
                raise RuntimeError("no evaluation here")
            return super().forward(counts, exposure)

    d = torch.poisson(torch.full((40, 5), 2.0)).long(), torch.ones(40)
    p = notebook.Panel({"counts": Counts()}, {"own": Silent}, d, batch_size=20)
    axes = p.show().axes
    assert "no evaluation here" in axes[0].texts[0].get_text() and len(axes) == 1


def test_a_method_for_a_guide_is_not_swapped_for_itself():
    class Both(nn.Module):
        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 2)

        def guide(self, x):
            with pyro.plate("data", len(x)):
                pyro.sample("u", dist.Normal(self.layer(x), 1.0).to_event(1))

        def model(self, x):
            with pyro.plate("data", len(x)):
                u = pyro.sample("u", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                pyro.sample("x", dist.Normal(u @ self.layer.weight, 1.0).to_event(1), obs=x)

    both = Both()
    p = notebook.Panel({"own": both.model}, {"own": lambda m: both.guide}, torch.randn(40, 6))
    p.train(1).choose(beta=0.5).train(1)
    assert not any(row.get("swapped") for row in p.trainer.history) and "epoch 2" in p.status


def test_a_cell_without_ipywidgets_shows_the_status_and_a_hint(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    p = panel()
    shown = p._repr_mimebundle_()
    assert shown["text/plain"] == repr(p) and set(shown) == {"text/plain", "text/html"}
    assert "not trained yet" in shown["text/html"] and "pip install" in shown["text/html"]


def test_widgets_need_ipywidgets(monkeypatch):
    monkeypatch.setitem(sys.modules, "ipywidgets", None)
    with pytest.raises(ImportError, match="pip install ipywidgets, or use panel"):
        panel().widgets()
