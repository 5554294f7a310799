"""The idiom of Pyro's examples: a model and a guide that are methods of one module."""

import copy
import functools
import gc
import pickle
import warnings
import weakref

import pyro
import pyro.distributions as dist
import pytest
import torch
from pyro import poutine
from pyro.infer import config_enumerate
from torch import nn

from pyro_vae import Trainer, handlers, infer, load
from pyro_vae.infer.engine import repeated
from pyro_vae.programs.labels import accepts_labels
from pyro_vae.programs.methods import Method, as_program, held_by
from pyro_vae.programs.modes import evaluating
from pyro_vae.programs.placing import device_of, dtype_of
from pyro_vae.programs.unwrapping import innermost, name_of

X = torch.randn(64, 6, generator=torch.Generator().manual_seed(1))


def network(inputs, outputs):
    return nn.Sequential(nn.Linear(inputs, 8), nn.BatchNorm1d(8), nn.Tanh(), nn.Linear(8, outputs))


class VAE(nn.Module):
    """As in Pyro's tutorial, with networks that behave otherwise when they are evaluated."""

    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = network(6, 4), network(2, 6)

    def model(self, x, spread=1.0):
        pyro.module("decoder", self.decoder)
        with pyro.plate("data", len(x)):
            z = pyro.sample("z", dist.Normal(x.new_zeros(len(x), 2), 1.0).to_event(1))
            pyro.sample("x", dist.Normal(self.decoder(z), spread).to_event(1), obs=x)

    def guide(self, x):
        pyro.module("encoder", self.encoder)
        with pyro.plate("data", len(x)):
            loc, log_scale = self.encoder(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


class Other(nn.Module):
    """Another guide for the same model."""

    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(6, 2)

    def forward(self, x):
        with pyro.plate("data", len(x)):
            pyro.sample("z", dist.Normal(self.linear(x), 0.5).to_event(1))


def made(seed=0, kind=VAE):
    torch.manual_seed(seed)
    return kind()


def trainer(vae, **options):
    return Trainer(vae.model, vae.guide, **{"seed": 0, "lr": 1e-2, **options})


def fit(trained, epochs=2, **options):
    return trained.fit(X, epochs=epochs, batch_size=16, progress=False, **options)


def stock(vae, steps=3, model=None, guide=None, x=X):
    """Losses of stock Pyro's own steps."""
    adam, loss = pyro.optim.Adam({"lr": 1e-2}), pyro.infer.Trace_ELBO()
    svi = pyro.infer.SVI(model or vae.model, guide or vae.guide, adam, loss)
    pyro.set_rng_seed(5)
    return [svi.step(x) for _ in range(steps)]


def ours(vae, steps=3, model=None, guide=None, x=X, **options):
    adam = functools.partial(torch.optim.Adam, lr=1e-2)
    svi = infer.SVI(model or vae.model, guide or vae.guide, adam, **options)
    pyro.set_rng_seed(5)
    return [float(svi.step(x)) for _ in range(steps)]


def tensors(module):
    return {name: t.detach().clone() for name, t in module.state_dict().items()}


def changed(module, before):
    return {name for name, t in module.state_dict().items() if not torch.equal(t, before[name])}


# What becomes a module


def scaled(vae):
    return poutine.scale(vae.model, 0.5)


FORMS = {
    "method": lambda vae: vae.model,
    "partial": lambda vae: functools.partial(vae.model, spread=2.0),
    "partial of a function": lambda vae: functools.partial(VAE.model, vae),
    "partial with a module": lambda vae: functools.partial(print, net=vae),
    "handler": scaled,
    "handlers": lambda vae: poutine.mask(scaled(vae), mask=True),
    "enumerated": lambda vae: config_enumerate(vae.guide),
    "partial of a handler": lambda vae: functools.partial(scaled(vae), spread=2.0),
}


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_what_shows_its_module_becomes_one(form):
    vae = made()
    given = form(vae)
    program = as_program(given)
    assert isinstance(program, nn.Module) and held_by(given) == held_by(program) == (vae,)
    assert as_program(given) is program is as_program(program)
    assert [*program.parameters()] == [*vae.parameters()]
    assert device_of(given).type == "cpu" and dtype_of(given, default=torch.int8) is torch.float32
    assert innermost(given) is innermost(program) is vae
    with evaluating(given):
        assert not vae.decoder[1].training and not program.training
    assert vae.decoder[1].training and program.training


def test_what_shows_none_stays_as_it_is():
    vae = made()
    assert as_program(vae) is vae and held_by(vae) == (vae,)
    for program in (print, lambda x: vae.model(x), functools.partial(print, 1), VAE, 3):
        assert as_program(program) is program and held_by(program) == ()


def test_a_method_is_one_and_the_same_program():
    one, other = made(), made()
    programs = [as_program(p) for p in (one.model, one.guide, other.model, other.guide)]
    assert len(set(programs)) == 4
    assert as_program(one.model) is programs[0] and as_program(other.guide) is programs[3]
    assert as_program(functools.partial(one.model, spread=2.0)) is not programs[0]


def test_names_and_arguments_are_those_of_the_method():
    class Labelled(VAE):
        def model(self, x, y=None):
            super().model(x)

        @poutine.scale(scale=0.5)
        def guide(self, x):
            super().guide(x)

    vae = Labelled()
    assert [accepts_labels(p) for p in (vae.model, as_program(vae.model))] == [True, True]
    assert [accepts_labels(p) for p in (vae.guide, as_program(vae.guide))] == [False, False]
    assert [*map(name_of, (vae.model, as_program(vae.model)))] == ["Labelled.model"] * 2
    assert as_program(vae.guide) is as_program(vae.guide)
    assert repr(as_program(vae.model)).startswith("Labelled.model(\n  (module): Labelled(")


def test_copies_and_pickles_of_a_pair_share_the_copy_of_the_module():
    vae = made()
    pair = as_program(vae.model), as_program(vae.guide)
    for copied in (copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))):
        model, guide = copied(pair)
        assert model.module is guide.module is not vae
        assert model.program.__self__ is guide.program.__self__ is model.module
        assert as_program(model.module.model) is model and as_program(vae.model) is pair[0]
    scaled_pair = copy.deepcopy((as_program(poutine.scale(vae.model, 0.5)), pair[1]))
    assert innermost(scaled_pair[0]) is scaled_pair[0].module is scaled_pair[1].module
    assert innermost(scaled_pair[0].program) is scaled_pair[0].module


def test_modules_live_as_long_as_somebody_holds_them():
    vae = made()
    program = as_program(vae.model)
    svi = infer.SVI(program, vae.guide, engine="graph")
    for _ in range(3):
        svi.step(X)
    infer.elbo_terms(vae.model, vae.guide, X, samples=2)
    gone = [weakref.ref(vae), weakref.ref(program)]
    del svi
    gc.collect()
    del vae, program
    assert [ref() for ref in gone] == [None, None]


def test_handlers_take_methods():
    vae = made()
    model = handlers.scale_latents(vae.model, 0.0)
    assert isinstance(model, nn.Module) and innermost(model) is vae
    loss, terms = infer.TraceELBO()(model, handlers.scale_latents(vae.guide, 0.0), X)
    torch.testing.assert_close(loss, -terms.reconstruction.sum())
    twice = handlers.free_bits(handlers.scale_latents(poutine.scale(vae.guide, 0.5), 2.0), 0.1)
    assert innermost(twice) is vae


# Training, against stock Pyro


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_the_losses_are_those_of_stock_pyro(engine):
    expected = stock(made())
    pyro.clear_param_store()
    assert ours(made(), engine=engine) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_partials_and_handlers_have_stock_pyros_losses_too(engine):
    def programs(vae):
        model = functools.partial(poutine.scale(vae.model, 0.5), spread=2.0)
        return {"model": model, "guide": poutine.scale(vae.guide, 0.5)}

    one, other = made(), made()
    expected = stock(one, **programs(one))
    pyro.clear_param_store()
    assert ours(other, **programs(other), engine=engine) == pytest.approx(expected, rel=1e-6)


def test_the_trainer_records_the_steps():
    trained = fit(trainer(made()), 27)
    assert trained.steps.running.records == 1
    again = fit(trainer(made(), engine="eager"), 27)
    for one, other in zip(trained.history, again.history, strict=True):
        assert {**one, "seconds": 0} == {**other, "seconds": 0}


def test_a_graph_by_itself_records_methods():
    vae, graph = made(), infer.Graph(infer.TraceELBO())
    for _ in range(3):
        graph(vae.model, vae.guide, X)
    assert graph.records == 1


def test_many_draws_are_recorded(monkeypatch):
    vae, calls, forward = made(), [], nn.Tanh.forward

    def counted(self, x):
        calls.append(1)
        return forward(self, x)

    monkeypatch.setattr(nn.Tanh, "forward", counted)
    monkeypatch.setattr(repeated, "CALLS_BEFORE_A_GRAPH", 100)
    infer.elbo_terms(vae.model, vae.guide, X, samples=300)
    assert 200 <= len(calls) < 300


# Evaluation


def measured(vae):
    model, guide = vae.model, vae.guide
    yield infer.elbo_terms(model, guide, X).elbo
    yield infer.importance(model, guide, X, samples=5).log_likelihood
    yield infer.SVI(model, guide).evaluate_loss(X)
    found = infer.compare_guides(model, {"own": guide}, X, importance_samples=5)
    yield found["own"].terms.elbo
    yield infer.encode(guide, X).mean["z"]
    infer.check_pair(model, guide, X)


def test_evaluations_are_in_evaluation_mode_and_leave_all_as_it_was():
    vae = made()
    fit(trainer(vae))
    before, state = tensors(vae), torch.get_rng_state()
    pyro.set_rng_seed(3)
    found = [*measured(vae)]
    assert not changed(vae, before) and vae.training and not pyro.get_param_store()
    vae.eval()
    pyro.set_rng_seed(3)
    for one, other in zip(found, measured(vae), strict=True):
        torch.testing.assert_close(one, other)
    torch.set_rng_state(state)
    vae.train()
    with torch.no_grad(), poutine.block():
        loss = pyro.infer.Trace_ELBO(num_particles=2).loss(vae.model, vae.guide, X)
    assert abs(loss / len(X) + float(found[0].mean())) > 0.01


def test_validation_is_in_evaluation_mode():
    vae = made()
    trained = fit(trainer(vae), validation=X[:16])
    told = trained.history[-1]["validation"]["elbo"]
    expected = infer.elbo_terms(vae.model, vae.guide, X[:16], samples=200).elbo.mean()
    assert abs(told - float(expected)) < 0.5
    plain = made()
    fit(trainer(plain))
    # Validation draws from the stream of training, and leaves batch statistics alone
    assert vae.decoder[1].num_batches_tracked == plain.decoder[1].num_batches_tracked == 8


def test_batch_statistics_can_be_recalibrated():
    vae = made()
    infer.recalibrate_batchnorm(vae.model, vae.guide, X, batch_size=64)
    expected = vae.encoder[0](X).mean(0)
    torch.testing.assert_close(vae.encoder[1].running_mean, expected)


# A cell that is run again


@pytest.mark.parametrize("run", [stock, ours], ids=["after stock", "after ours"])
@pytest.mark.parametrize("engine", ["eager", "graph"])
def test_a_cell_that_is_run_again_trains_the_new_module(run, engine):
    expected = ours(made(1), engine=engine)
    run(made())
    again = made(1)
    before = tensors(again)
    assert ours(again, engine=engine) == expected
    assert changed(again, before) == before.keys()


@pytest.mark.parametrize("engine", [None, "eager"])
def test_a_cell_with_a_trainer_that_is_run_again(engine):
    expected = fit(trainer(made(1), engine=engine)).history[-1]["elbo"]
    stock(made())
    again = made(1)
    assert fit(trainer(again, engine=engine)).history[-1]["elbo"] == expected


@pytest.mark.parametrize("wrap", [lambda p: p, scaled], ids=["plain", "scaled"])
def test_stock_pyro_goes_on_as_if_nothing_had_been(wrap):
    def losses(between):
        pyro.clear_param_store()
        vae, optimizer = made(), pyro.optim.Adam({"lr": 1e-2})
        svi = pyro.infer.SVI(vae.model, vae.guide, optimizer, pyro.infer.Trace_ELBO())
        pyro.set_rng_seed(5)
        found = []
        for _ in range(3):
            found.append(svi.step(X))
            state = torch.get_rng_state()
            between()
            torch.set_rng_state(state)
        return found

    def train():
        other = made(1)
        ours(other, engine="graph")
        fit(trainer(other))
        infer.elbo_terms(other.model, other.guide, X)

    assert losses(train) == losses(lambda: None)


def test_a_module_with_a_forward_that_declares_itself_trains_when_its_cell_is_run_again():
    class Forward(nn.Module):
        def __init__(self, vae, name):
            super().__init__()
            self.vae, self.name = vae, name

        def forward(self, x):
            pyro.module("vae", self.vae)
            getattr(self.vae, self.name)(x)

    def pair(vae):
        return {name: Forward(vae, name) for name in ("model", "guide")}

    stock(None, **pair(made()))
    expected = ours(made(1))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert ours(None, **pair(made(1))) == expected


def test_two_instances_train_side_by_side():
    alone = [ours(made(seed)) for seed in (1, 2)]
    one, other = made(1), made(2)
    assert [ours(one), ours(other)] == alone


def test_stock_optimizers_and_losses():
    adam, losses = pyro.optim.Adam({"lr": 1e-2}), []
    vae, expected = made(), stock(made())
    svi = infer.SVI(vae.model, vae.guide, adam, loss=pyro.infer.Trace_ELBO())
    pyro.set_rng_seed(5)
    losses = [float(svi.step(X)) for _ in range(3)]
    assert losses == pytest.approx(expected, rel=1e-6)


# Files


def test_a_file_holds_both_methods_and_loads_into_another_module(tmp_path):
    vae = made()
    trained = fit(trainer(vae))
    with pytest.raises(TypeError, match="model: expected a value that JSON can hold"):
        trained.save(tmp_path / "file.pt")
    trained.save(tmp_path / "file.pt", arguments=False)
    other = made(1)
    again = load(tmp_path / "file.pt", model=other.model, guide=other.guide)
    assert not changed(other, tensors(vae))
    assert again.model is as_program(other.model) and again.step == trained.step
    assert fit(again).history[-1]["elbo"] == fit(trained).history[-1]["elbo"]
    assert not changed(other, tensors(vae))


def test_shared_tensors_are_written_once(tmp_path):
    vae = made()
    trainer(vae).save(tmp_path / "both.pt", arguments=False)
    wide = nn.Linear(500, 500)
    vae.add_module("wide", wide)
    trainer(vae).save(tmp_path / "wide.pt", arguments=False)
    more = (tmp_path / "wide.pt").stat().st_size - (tmp_path / "both.pt").stat().st_size
    assert more < 1.2 * sum(p.numel() * p.element_size() for p in wide.parameters())


class Crash:
    """A callback that ends a run in its sixth step, or never."""

    def __init__(self, step=6):
        self.step = step

    def on_step_end(self, trainer, **kwargs):
        if trainer.step == self.step:
            raise ZeroDivisionError

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        pass


def test_an_interrupted_run_goes_on(tmp_path):
    whole = fit(trainer(made()), 3)
    with pytest.raises(ZeroDivisionError):
        fit(trainer(made()), 3, checkpoint=tmp_path, every=2, callbacks=[Crash()])
    vae = made(1)
    again = Trainer.resume(tmp_path, model=vae.model, guide=vae.guide)
    fit(again, 3, callbacks=[Crash(0)])
    assert [row["elbo"] for row in again.history] == [row["elbo"] for row in whole.history]
    assert not changed(vae, tensors(whole.model.module))


def test_a_copy_of_a_trainer_trains_by_itself():
    trained = fit(trainer(made()))
    copied = copy.deepcopy(trained)
    assert copied.model.module is copied.guide.module is not trained.model.module
    assert fit(copied).history[-1]["elbo"] == fit(trained).history[-1]["elbo"]


# Swapping


class TwoGuides(VAE):
    def __init__(self):
        super().__init__()
        self.second = network(6, 4)

    def other_guide(self, x):
        with pyro.plate("data", len(x)):
            loc, log_scale = self.second(x).chunk(2, -1)
            pyro.sample("z", dist.Normal(loc, log_scale.exp()).to_event(1))


def names(*prefixes):
    vae = made(kind=TwoGuides)
    return {name for name in vae.state_dict() if name.startswith(prefixes)}


@pytest.mark.filterwarnings("ignore:0.bias was not registered in the param store")
def test_only_what_the_model_runs_is_frozen():
    vae = made(kind=TwoGuides)
    vae.decoder[0].bias.requires_grad_(False)
    with pytest.warns(infer.UntrainedWarning, match="second"):
        trained = fit(trainer(vae))
    trained.swap_guide(vae.other_guide, freeze_model=True)
    frozen = {name for name, p in vae.named_parameters() if not p.requires_grad}
    assert frozen == {n for n, _ in vae.named_parameters() if n.startswith("decoder")}
    before = tensors(vae)
    with pytest.warns(infer.UntrainedWarning, match="encoder"):
        fit(trained)
    assert changed(vae, before) == names("second") and trained.frozen
    trained.swap_guide(vae.guide)
    frozen = {name for name, p in vae.named_parameters() if not p.requires_grad}
    assert frozen == {"decoder.0.bias"}


def test_the_model_cannot_be_told_apart_before_a_run():
    vae = made()
    with pytest.raises(ValueError, match="freeze_model: expected a trainer that has trained"):
        trainer(vae).swap_guide(vae.guide, freeze_model=True)
    # No guide is of the module: all of it is the model's
    one = Trainer(vae.model, Other()).swap_guide(Other(), freeze_model=True)
    assert one.frozen and not any(p.requires_grad for p in vae.parameters())


def test_a_frozen_file_goes_on_frozen(tmp_path):
    vae = made()
    trained = fit(trainer(vae)).swap_guide(vae.guide, freeze_model=True)
    fit(trained).save(tmp_path / "file.pt", arguments=False)
    other = made(1)
    again = load(tmp_path / "file.pt", model=other.model, guide=other.guide)
    before = tensors(other)
    fit(again)
    assert changed(other, before) == {n for n in before if n.startswith("encoder")}


def test_a_guide_that_is_swapped_out_leaves_parameters_unused_which_is_told_once():
    vae = made()
    trained = fit(trainer(vae))
    before, swapped = tensors(vae), trained.swap_guide(Other())
    with pytest.warns(infer.UntrainedWarning, match="encoder") as told:
        fit(swapped)
    assert len(told) == 1
    assert changed(vae, before) == {n for n in before if n.startswith("decoder")}
    fit(swapped)


def test_there_and_back():
    vae = made()
    own, other = vae.guide, Other()
    trained = fit(trainer(vae))
    moments = copy.deepcopy(trained.optimizer.state[vae.encoder[0].weight])
    with pytest.warns(infer.UntrainedWarning, match="encoder"):
        fit(trained.swap_guide(other))
    fit(trained.swap_guide(own), 1)
    assert trained.guide is as_program(vae.guide)
    state = trained.optimizer.state[vae.encoder[0].weight]
    assert state["step"] == moments["step"] + 4


def test_a_guide_of_another_instance_is_told():
    one, other = made(), made(1)
    fit(trainer(one))
    fit(trainer(other))
    infer.elbo_terms(one.model, one.guide, X)
    with pytest.warns(UserWarning, match="belongs to another VAE"):
        infer.elbo_terms(one.model, other.guide, X)


def test_a_module_as_model_and_its_method_as_guide():
    class Forward(VAE):
        def forward(self, x):
            self.model(x)

    vae, before = made(kind=Forward), tensors(made(kind=Forward))
    trained = fit(Trainer(vae, vae.guide, seed=0, lr=1e-2), 27)
    assert trained.steps.running.records == 1 and changed(vae, before) == before.keys()
    assert isinstance(trained.guide, Method) and trained.model is vae
