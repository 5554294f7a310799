import json
import math

import pyro
import pyro.distributions as dist
import pytest
import torch
from chance import excess
from fitting import (
    FROZEN,
    GREY,
    HIERARCHY,
    OPTIMIZERS,
    X,
    changed,
    fitted,
    mean_and_error,
    more,
    pair,
    rows,
    values,
)
from pyro.infer import Trace_ELBO
from torch import nn

from pyro_vae import Trainer, data, guides, infer, likelihoods, schedules
from pyro_vae.handlers import corrupt
from pyro_vae.models import VAE

# The optimisation


def by_hand(optimizer, *, epochs=2, batch_size=16, clip_norm=math.inf):
    """The loop that a person would write over stock Pyro."""
    vae, guide = pair()
    parameters = [*vae.parameters(), *guide.parameters()]
    optimizer = optimizer(parameters, lr=1e-2)
    torch.manual_seed(0)
    for _ in range(epochs):
        for index in torch.randperm(len(X)).split(batch_size):
            optimizer.zero_grad()
            loss = Trace_ELBO().differentiable_loss(vae, guide, X[index]) / len(index)
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, clip_norm)
            optimizer.step()
    return values(vae, guide)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_training_is_that_of_a_loop_written_by_hand(optimizer):
    trainer = fitted(optimizer=optimizer)
    torch.testing.assert_close(
        values(trainer.model, trainer.guide), by_hand(optimizer), rtol=1e-4, atol=1e-6
    )


def test_clip_norm_clips():
    trainer = fitted(optimizer=torch.optim.SGD, clip_norm=0.1)
    expected = by_hand(torch.optim.SGD, clip_norm=0.1)
    torch.testing.assert_close(values(trainer.model, trainer.guide), expected)
    assert expected.keys() == changed(by_hand(torch.optim.SGD), trainer.model, trainer.guide)


@pytest.mark.parametrize(
    "same",
    [(X, None), [X, None], (X, torch.zeros(40, dtype=torch.long)), data.Dataset(X), X.double()],
    ids=["pair", "list", "labels", "Dataset", "double"],
)
def test_every_form_of_data_trains_alike(same):
    assert rows(fitted(data=same)) == rows(fitted())


def test_explicit_device_trains_alike():
    trainer = fitted(device="cpu")
    assert trainer.device == torch.device("cpu")
    assert rows(trainer) == rows(fitted())


def test_labels_reach_the_pair():
    y = torch.arange(40) % 3
    vae, guide = pair(condition=3, guide=guides.Delta)
    trainer = fitted((vae, guide), (X, y), beta=0.0, lr=FROZEN, epochs=1)
    one_hot = torch.eye(3)[y]
    z = guide.conditionals["z1"](X, one_hot).mean
    exact = vae.likelihood(vae.decoder(z, one_hot)).log_prob(X).sum(-1).mean()
    assert trainer.history[0]["objective"] == pytest.approx(exact.item(), rel=1e-5)


def test_a_pair_of_plain_functions_learns_the_exact_posterior():
    """h ~ N(0, 1), x|h ~ N(h + b, 1): b is the mean of x, h|x ~ N((x - b) / 2, 1/2)."""
    x = 1 + math.sqrt(2) * torch.randn(500, 1)
    encoder = nn.Linear(1, 1)

    def model(x):
        shift = pyro.param("shift", torch.tensor(0.0))
        with pyro.plate("rows", len(x)):
            h = pyro.sample("h", dist.Normal(0.0, 1.0))
            pyro.sample("observed", dist.Normal(h + shift, 1.0), obs=x[:, 0])

    def guide(x):
        pyro.module("encoder", encoder)
        sd = pyro.param("sd", torch.tensor(2.0), constraint=dist.constraints.positive)
        with pyro.plate("rows", len(x)):
            pyro.sample("h", dist.Normal(encoder(x)[:, 0], sd))

    trainer = Trainer(model, guide, seed=0, beta={"h": 1.0}, elbo="analytic")
    for trainer.lr in (0.1, 0.02, 0.004):
        more(trainer, x, 80, 500)

    shift = float(x.mean())
    assert pyro.param("shift").item() == pytest.approx(shift, abs=0.02)
    assert pyro.param("sd").item() == pytest.approx(math.sqrt(0.5), abs=0.02)
    assert encoder.weight.item() == pytest.approx(0.5, abs=0.02)
    assert encoder.bias.item() == pytest.approx(-shift / 2, abs=0.05)
    evidence = dist.Normal(shift, math.sqrt(2)).log_prob(x).mean()
    assert trainer.history[-1]["elbo"] == pytest.approx(float(evidence), abs=0.05)
    assert set(trainer.history[-1]["kl"]) == {"h"}


# Random streams


def test_same_seed_same_history_to_the_last_bit():
    first, second = fitted(seed=3), fitted(seed=3)
    assert rows(first) == rows(second)
    assert not changed(values(first.model, first.guide), second.model, second.guide)
    assert rows(first) != rows(fitted(seed=4))


def test_without_seed_the_global_stream_is_used():
    def run(seed):
        programs = pair()
        torch.manual_seed(seed)
        return rows(fitted(programs, seed=None))

    assert run(1) == run(1)
    assert run(1) != run(2)


@pytest.mark.parametrize("training", [X, GREY], ids=["values", "dynamic"])
def test_a_seeded_trainer_leaves_the_global_stream_alone(training):
    programs = pair(likelihood=None if training is X else likelihoods.Bernoulli())
    before = torch.get_rng_state()
    fitted(programs, training, validation=training)
    assert torch.equal(torch.get_rng_state(), before)


def test_validation_does_not_disturb_training():
    assert rows(fitted(validation=X[:9]), "validation") == rows(fitted())


def test_validation_is_the_bound_of_the_whole_set():
    vae, guide = pair(HIERARCHY, guides.Delta)
    row = fitted((vae, guide), validation=X[:9], epochs=1).history[0]["validation"]
    terms = infer.elbo_terms(vae, guide, X[:9])
    assert row["reconstruction"] == pytest.approx(float(terms.reconstruction.mean()))
    assert row["kl"] == pytest.approx({s: float(kl.mean()) for s, kl in terms.kl.items()})
    assert row["elbo"] == pytest.approx(float(terms.elbo.mean()))
    assert row["elbo_se"] == pytest.approx(float(terms.elbo.std()) / 3)


def test_dynamic_binarisation_is_drawn_anew_each_epoch():
    """With a constant code log p(x|z) is linear in x: its mean is that of the intensities."""
    vae, guide = pair(guide=guides.Delta, likelihood=likelihoods.Bernoulli())
    nn.init.zeros_(guide.conditionals["z1"].loc.weight)
    options = {"beta": 0.0, "lr": FROZEN, "epochs": 60, "batch_size": 40}
    found = fitted((vae, guide), GREY, **options).history.column("objective")
    assert len(set(found)) == 60
    logits = vae.decoder(guide.encode(X).mean["z1"]).detach()
    expected = (GREY.x * logits - nn.functional.softplus(logits)).sum(-1).mean()
    mean, error = mean_and_error(found)
    assert excess((mean - float(expected)) / error, draws=60) < 1
    static = GREY.binarized(torch.Generator().manual_seed(0))
    once = fitted((vae, guide), static, **options).history.column("objective")
    assert once == pytest.approx(once[:1] * 60, rel=1e-6)


# The history


def test_history_is_json():
    trainer = fitted(pair(HIERARCHY), validation=X, beta={"z1": torch.tensor(0.5)})
    assert json.loads(trainer.history.to_json()) == trainer.history
    assert {type(row) for row in trainer.history} == {dict}


def test_history_keys():
    row = fitted(epochs=1).history[0]
    assert set(row) == {
        *("epoch", "step", "elbo", "objective", "reconstruction", "kl"),
        *("beta", "lr", "guide", "frozen", "active_units", "seconds"),
    }
    assert (row["lr"], row["guide"]) == (1e-2, "BottomUp") and row["seconds"] > 0


def test_print_tells_how_far_training_went():
    trainer = fitted()
    text = f"Trainer after 2 epochs, 6 steps, elbo {trainer.history[-1]['elbo']:.2f}"
    assert repr(trainer) == f"{text}\n{trainer.model!r}\n{trainer.guide!r}"


def test_progress_shows_the_bound(capsys):
    trainer = Trainer(*pair(), seed=0).fit(X, epochs=1)
    assert f"elbo={trainer.history[0]['elbo']:.2f}" in capsys.readouterr().err


def test_engines_give_the_same_history_to_the_last_bit(graphs):
    x = torch.randn(150, 6)

    def history(engine):
        torch.manual_seed(0)
        vae = VAE((6,), (4, 3), likelihood=likelihoods.Gaussian(), hidden=(16,))
        trainer = Trainer(
            vae, guides.BottomUp(vae), beta=schedules.WarmUp(epochs=3), seed=0, engine=engine
        )
        trainer.fit(x, epochs=30, batch_size=32, progress=False)
        trainer.swap_guide(guides.BottomUp(vae, hidden=(8,)))
        trainer.fit(x, epochs=30, batch_size=32, progress=False)
        assert engine == "eager" or graphs[infer.Graph][-1].records
        return [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]

    assert history("graph") == history("eager")


def test_rows_name_the_guide_under_its_handlers():
    vae, guide = pair()
    assert fitted((vae, corrupt(guide, 0.1))).history[0]["guide"] == "BottomUp"


def test_double_precision():
    """A double model with double, single and dynamically binarised data."""
    dtypes = set()

    class Noted(infer.TraceELBO):
        def __call__(self, *given):
            loss, terms = super().__call__(*given)
            dtypes.add(terms.elbo.dtype)
            return loss, terms

    vae, guide = (p.double() for p in pair(likelihood=likelihoods.ContinuousBernoulli()))
    for given in (X.sigmoid().double(), X.sigmoid(), GREY):
        trainer = Trainer(vae, guide, elbo=Noted("mean"), seed=0).fit(
            given, validation=given, epochs=1, batch_size=20, progress=False
        )
        assert dtypes == {torch.float64}
        assert math.isfinite(trainer.history[0]["validation"]["elbo"])
