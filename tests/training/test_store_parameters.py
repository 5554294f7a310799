"""Parameters in Pyro's store: files hold them, and runs go on with them bit for bit."""

import copy
import io
import pickle

import pyro
import pyro.distributions as dist
import pytest
import torch
from checkpointed import Break, Stop, checkpoints
from pyro.distributions import constraints
from torch import nn

from pyro_vae import Trainer, callbacks, diagnostics, infer, load
from pyro_vae.storage.sealed import seal

X = torch.randn(20, 2, generator=torch.Generator().manual_seed(1)) + 1
STEPS = 5  # per epoch
positive = constraints.positive


def model(x):
    shift = pyro.param("shift", lambda: torch.randn(2))
    noise = pyro.param("noise", torch.ones(2), constraint=positive)
    with pyro.plate("rows", len(x)):
        z = pyro.sample("z", dist.Normal(0.0, 1.0))
        pyro.sample("x", dist.Normal(z[:, None] + shift, noise).to_event(1), obs=x)


def guide(x):
    slope = pyro.param("slope", torch.zeros(2))
    scale = pyro.param("scale", torch.tensor(0.5), constraint=positive)
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(x @ slope, scale))


def constant(x):
    loc = pyro.param("loc", torch.tensor(0.3))
    with pyro.plate("rows", len(x)):
        pyro.sample("z", dist.Normal(loc, 0.5))


class Both(nn.Module):
    """A model with a site beside its network, and a site that begins at its ninth run."""

    def __init__(self, late=False):
        super().__init__()
        torch.manual_seed(0)
        self.net, self.late = nn.Linear(2, 1), late
        self.register_buffer("runs", torch.tensor(0))

    def model(self, x):
        noise = pyro.param("noise", torch.ones(2), constraint=positive)
        shift = 0.0
        if self.late:
            self.runs += self.training
            if self.runs > 8:
                shift = pyro.param("late", lambda: torch.randn(2))
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None] + shift, noise).to_event(1), obs=x)

    def guide(self, x):
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(self.net(x)[:, 0], 0.5))


def functions():
    return {"model": model, "guide": guide}


def modules(**options):
    both = Both(**options)
    return {"model": both.model, "guide": both.guide}


def mixed():
    return {"model": model, "guide": modules()["guide"]}


PAIRS = {
    "functions": functions,
    "a module with a site": modules,
    "a function and a module": mixed,
    "a late site": lambda: modules(late=True),
}


def trainer(pair, **options):
    return Trainer(**pair, **{"seed": 0, "lr": 0.05, **options})


def fit(t, x=X, **options):
    return t.fit(x, **{"epochs": 3, "batch_size": 4, "progress": False, **options})


def on(t, **options):
    return t.fit(X, progress=False, **options)


def stored():
    store = pyro.get_param_store()
    return {name: store[name].detach().clone() for name in sorted(store)}


def outcome(t):
    """Values, moments and history; the sites by name."""
    values = [p.detach().clone() for p in t.parameters()]
    states = [m or {} for m in t.state_dict()["moments"]]
    moments = [torch.as_tensor(v).clone() for state in states for v in state.values()]
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in t.history]
    return [*values, *moments, *stored().values()], [*stored()], rows


def assert_same(one, other):
    assert one[1:] == other[1:]
    assert len(one[0]) == len(other[0])
    assert all(map(torch.equal, one[0], other[0]))


def elsewhere(**values):
    """As in another process, whose store has these values."""
    pyro.clear_param_store()
    for name, value in values.items():
        pyro.param(name, torch.as_tensor(value))


def through_file(t, path, **given):
    t.save(path, arguments=False)
    elsewhere()
    return load(path, **given)


def evaluated(t):
    torch.manual_seed(5)
    return str(diagnostics.evaluate(t.model, t.guide, X, importance_samples=0))


def broken(pair, folder, at, **options):
    with pytest.raises(Stop):
        fit(trainer(pair), checkpoint=folder, callbacks=[Break(at)], **options)


@pytest.mark.parametrize("every", [1, 3, 5, 100])
@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_run_that_was_broken_off_ends_as_one_that_was_not(pair, every, tmp_path):
    whole = outcome(fit(trainer(pair())))
    # Within an epoch, between two, and before the first step
    elsewhere()
    broken(pair(), tmp_path, 11, every=every)
    elsewhere()
    again = Trainer.resume(tmp_path, **pair())
    assert again.step == 10 // every * every
    assert_same(outcome(on(again, callbacks=[Break(99)])), whole)


def test_values_that_the_store_has_already_are_replaced(tmp_path):
    whole = outcome(fit(trainer(functions())))
    elsewhere()
    broken(functions(), tmp_path, 11, every=3)
    elsewhere(shift=[7.0, 7.0], scale=-1.0, other=3.0)
    again = Trainer.resume(tmp_path, **functions())
    assert stored().pop("other") == 3.0
    del pyro.get_param_store()["other"]
    assert_same(outcome(on(again, callbacks=[Break(99)])), whole)


def test_a_run_begins_anew_where_it_had_not_begun(tmp_path):
    whole = outcome(fit(trainer(functions())))
    elsewhere()
    broken(functions(), tmp_path, 3)
    assert stored()["noise"].ne(1.0).all()
    again = Trainer.resume(tmp_path, **functions())
    assert again.step == 0 and not stored()
    assert_same(outcome(on(again, callbacks=[Break(99)])), whole)


def test_a_recorded_run_goes_on_with_its_site(tmp_path):
    options = {"batch_size": 1, "epochs": 7}
    whole = outcome(fit(trainer(modules(), engine="graph"), **options))
    elsewhere()
    with pytest.raises(Stop):
        t = trainer(modules(), engine="graph")
        fit(t, checkpoint=tmp_path, every=50, callbacks=[Break(130)], **options)
    elsewhere()
    again = Trainer.resume(tmp_path, **modules())
    assert again.step == 100
    assert_same(outcome(on(again, callbacks=[Break(999)])), whole)


@pytest.mark.parametrize("pair", PAIRS.values(), ids=PAIRS)
def test_a_file_is_evaluated_and_trained_as_what_was_saved(pair, tmp_path):
    # In several calls of fit a long run would be recorded, which a late site does not allow
    t = fit(trainer(pair(), engine="eager"))
    bound = evaluated(t)
    before, values = outcome(t), stored()
    t.save(tmp_path / "a.pt", arguments=False)
    more = outcome(fit(t))
    elsewhere(noise=[9.0, 9.0])
    again = load(tmp_path / "a.pt", **pair())
    assert all(map(torch.equal, stored().values(), values.values()))
    assert_same(outcome(again), before)
    assert evaluated(again) == bound
    assert_same(outcome(fit(again)), more)


def test_groups_of_their_own_rates_stay(tmp_path):
    def grouped(parameters, lr):
        flat = [p for p in parameters if p.dim()]
        rest = [p for p in parameters if not p.dim()]
        groups = [{"params": flat, "lr": lr}, {"params": rest, "lr": lr / 10}]
        return torch.optim.Adam(groups)

    whole = outcome(fit(trainer(functions(), optimizer=grouped)))
    elsewhere()
    with pytest.raises(Stop):
        t = trainer(functions(), optimizer=grouped)
        fit(t, checkpoint=tmp_path, every=3, callbacks=[Break(11)])
    elsewhere()
    again = Trainer.resume(tmp_path, **functions(), optimizer=grouped)
    assert_same(outcome(on(again, callbacks=[Break(99)])), whole)


def test_guides_that_are_functions_come_back_after_a_swap_and_a_file(tmp_path):
    def run(t):
        fit(t)
        fit(t.swap_guide(constant), epochs=1)
        return t

    t = run(trainer(functions()))
    t.save(tmp_path / "a.pt")
    slope = stored()["slope"]
    whole = outcome(fit(t.swap_guide(guide)))
    assert not torch.equal(stored()["slope"], slope)
    elsewhere()
    again = load(tmp_path / "a.pt", model=model, guide=constant)
    assert torch.equal(stored()["slope"], slope)
    assert_same(outcome(fit(again.swap_guide(guide))), whole)


DECLARED = {
    "real": (constraints.real, torch.tensor([-1.0, 2.0])),
    "positive": (positive, torch.tensor([1.0, 2.0])),
    "nonnegative": (constraints.nonnegative, torch.tensor(0.5)),
    "unit": (constraints.unit_interval, torch.tensor([0.2, 0.9])),
    "interval": (constraints.interval(-2, 3.5), torch.tensor([0.0, 1.0])),
    "half": (constraints.half_open_interval(0.0, 4.0), torch.tensor(1.0)),
    "bounds": (
        constraints.interval(torch.tensor([0.0, -3.0]), torch.tensor([1.0, 8.0])),
        torch.tensor([[0.5, 0.0], [0.1, 1.0]]),
    ),
    "greater": (constraints.greater_than(2.0), torch.tensor(3.0)),
    "at least": (constraints.greater_than_eq(-1), torch.tensor(0.0)),
    "less": (constraints.less_than(4.0), torch.tensor(3.0)),
    "simplex": (constraints.simplex, torch.tensor([0.2, 0.3, 0.5])),
    "cholesky": (constraints.lower_cholesky, torch.eye(2) * 0.5),
    "correlated": (constraints.corr_cholesky, torch.eye(3)),
    "correlation": (constraints.corr_matrix, torch.eye(3)),
    "definite": (constraints.positive_definite, torch.eye(2) + 0.5),
    "semidefinite": (constraints.positive_semidefinite, torch.eye(2) + 0.5),
    "softplus": (constraints.softplus_positive, torch.tensor(1.0)),
    "softplus cholesky": (constraints.softplus_lower_cholesky, torch.eye(2)),
    "unit cholesky": (constraints.unit_lower_cholesky, torch.eye(2)),
    "ordered": (constraints.ordered_vector, torch.tensor([-1.0, 0.0, 2.0])),
    "ordered and positive": (constraints.positive_ordered_vector, torch.tensor([1.0, 2.0])),
    "sphere": (constraints.sphere, torch.tensor([0.6, 0.8])),
    "vector": (constraints.real_vector, torch.zeros(3)),
    "independent": (
        constraints.independent(constraints.independent(positive, 1), 1),
        torch.ones(2, 3),
    ),
}


def declaring(declared):
    def program(x):
        parts = [pyro.param(name, v, constraint=c).sum() for name, (c, v) in declared.items()]
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.1 * sum(parts), 1.0))
            pyro.sample("x", dist.Normal(z[:, None].expand(-1, 2), 1.0).to_event(1), obs=x)

    return program


def test_every_standard_constraint_goes_through_a_file(tmp_path):
    program = declaring(DECLARED)
    t = fit(trainer({"model": program, "guide": guide}), epochs=1)
    values, state = stored(), pyro.get_param_store().get_state()
    again = through_file(t, tmp_path / "a.pt", model=program, guide=guide)
    assert stored().keys() == values.keys() == {*DECLARED, "slope", "scale"}
    found = pyro.get_param_store().get_state()
    for name, value in values.items():
        assert torch.equal(stored()[name], value), name
        assert torch.equal(found["params"][name], state["params"][name]), name
        assert type(found["constraints"][name]) is type(state["constraints"][name]), name
        assert repr(found["constraints"][name]) == repr(state["constraints"][name]), name
    fit(again, epochs=1)


def test_other_constraints_are_refused_before_training(tmp_path):
    both = constraints.stack([constraints.real, positive], -1)
    t = trainer({"model": declaring({"odd": (both, torch.ones(2))}), "guide": guide})
    with pytest.raises(TypeError, match=r"site 'odd': .*such as constraints\.positive"):
        fit(t, checkpoint=tmp_path / "run")
    assert t.step == 0 and not checkpoints(tmp_path / "run")
    fit(t, epochs=1)
    with pytest.raises(TypeError, match="site 'odd'"):
        t.save(tmp_path / "a.pt")
    assert not (tmp_path / "a.pt").exists()


def test_the_checker_tells_whether_a_file_holds_the_sites():
    both = constraints.stack([constraints.real, positive], -1)
    for pair in (functions(), modules()):
        assert infer.check_pair(**pair, x=X).tools["save, resume"] == ""
    stacked = {"model": declaring({"odd": (both, torch.ones(2))}), "guide": guide}
    assert "site 'odd'" in infer.check_pair(**stacked, x=X).tools["save, resume"]


def test_networks_of_functions_are_refused_before_training(tmp_path):
    net = nn.Linear(2, 1)

    def declared(x):
        pyro.module("net", net)
        with pyro.plate("rows", len(x)):
            pyro.sample("z", dist.Normal(net(x)[:, 0], 1.0))

    t = trainer({"model": model, "guide": declared})
    with pytest.raises(TypeError, match=r"site 'net\$\$\$\w+': a network"):
        fit(t, checkpoint=tmp_path)
    assert t.step == 0


def test_programs_of_another_kind_are_refused(tmp_path):
    path = tmp_path / "a.pt"
    trainer(functions()).save(path)
    with pytest.raises(ValueError, match=r"a.pt: its model was a plain function.*got none"):
        load(path)
    with pytest.raises(ValueError, match=r"its guide was a plain function.*the module Both.guide"):
        load(path, model=model, guide=Both().guide)
    trainer(mixed()).save(path, arguments=False)
    with pytest.raises(ValueError, match=r"of the guide, a module, got a plain function"):
        load(path, **functions())


def test_files_without_sites_load(tmp_path):
    """As those of versions before there were any."""
    path = tmp_path / "a.pt"
    t = fit(trainer(modules()), epochs=1)
    t.save(path, arguments=False)
    content = torch.load(path, weights_only=True)
    del content["trainer"]["store"]
    content["trainer"]["moments"].pop()
    write(path, content)
    elsewhere(noise=5.0)
    load(path, **modules())
    assert stored() == {"noise": 5.0}


def write(path, content):
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(seal(buffer.getvalue()))


LARGE = torch.zeros(2000, 1)
FORGED = {
    "no dictionary": [],
    "numbers for names": {1: [torch.zeros(2), ["real"]]},
    "no entry": {"noise": torch.zeros(2)},
    "too much": {"noise": [torch.zeros(2), ["real"], 1]},
    "no constraint": {"noise": [torch.zeros(2), None]},
    "an unknown one": {"noise": [torch.zeros(2), ["os.system"]]},
    "not one of a parameter": {"noise": [torch.zeros(2), ["boolean"]]},
    "one with arguments": {"noise": [torch.zeros(2), ["real", 1]]},
    "one without": {"noise": [torch.zeros(2), ["interval", 1]]},
    "a bound that is text": {"noise": [torch.zeros(2), ["greater_than", "0"]]},
    "a bound larger than its value": {"noise": [torch.zeros(2, 1), ["less_than", LARGE[:, 0]]]},
    "a vector as a matrix": {"noise": [LARGE, ["positive_definite"]]},
    "no triangle": {"noise": [torch.zeros(2), ["corr_cholesky"]]},
    "too many dimensions": {"noise": [torch.zeros(2), ["independent", ["real"], 2]]},
    "dimensions without end": {"noise": [torch.zeros(2), ["independent", ["real"], 10**30]]},
    "half of one": {"noise": [torch.zeros(2), ["independent", ["real"]]]},
    "whole numbers": {"noise": [torch.zeros(2, dtype=torch.int64), ["real"]]},
    "nothing there": {"noise": [torch.zeros(2, device="meta"), ["real"]]},
    "sparse": {"noise": [torch.eye(2).to_sparse(), ["real"]]},
    "text": {"noise": ["text", ["real"]]},
    "a network's": {"noise": [torch.zeros(2), ["real"]], "net$$$weight": [None, ["real"]]},
    "another shape": {"noise": [torch.zeros(3), ["greater_than", 0.0]]},
    "one more": {"noise": [torch.zeros(2), ["real"]], "more": [torch.zeros(2), ["real"]]},
    "none": {},
}


@pytest.mark.parametrize("forged", FORGED.values(), ids=FORGED)
def test_forged_sites_are_refused(forged, tmp_path):
    path = tmp_path / "a.pt"
    t = fit(trainer(modules()), epochs=1)
    t.save(path, arguments=False)
    content = torch.load(path, weights_only=True)
    content["trainer"]["store"] = forged
    write(path, content)
    elsewhere(noise=5.0)
    with pytest.raises(ValueError, match=r"a\.pt: .*damaged or changed"):
        load(path, **modules())
    assert stored() == {"noise": 5.0}


def test_files_of_sites_run_no_code(tmp_path):
    path = tmp_path / "a.pt"
    fit(trainer(functions()), epochs=1).save(path)
    content = torch.load(path, weights_only=True)
    assert {*content["trainer"]["store"]} == {"shift", "noise", "slope", "scale"}
    content["trainer"]["store"]["noise"][1] = positive
    write(path, content)
    with pytest.raises(ValueError, match="no code in a file is ever run"):
        load(path, **functions())


def test_a_store_that_was_cleared_after_resume_is_told(tmp_path):
    broken(functions(), tmp_path, 7, every=1)
    again = Trainer.resume(tmp_path, **functions())
    elsewhere()
    with pytest.raises(RuntimeError, match="no longer in Pyro's store"):
        on(again, callbacks=[Break(99)])


@pytest.mark.parametrize("pair", [functions, modules])
def test_the_best_epoch_has_its_sites_back(pair, tmp_path):
    class Note(callbacks.Callback):
        values = ()

        def on_epoch_end(self, trainer, row, **kwargs):
            self.values = *self.values, stored()

        def state_dict(self):
            return {}

        def load_state_dict(self, state):
            pass

    note = Note()
    t = fit(trainer(pair(), lr=0.5), validation=X, patience=9, epochs=6, callbacks=[note])
    (kept,) = [row["epoch"] for row in t.history if row.get("kept")]
    assert kept < 6
    for name, value in stored().items():
        assert torch.equal(value, note.values[kept - 1][name])
    again = through_file(t, tmp_path / "a.pt", **pair())
    assert [*again.history] == [*t.history]
    for name, value in stored().items():
        assert torch.equal(value, note.values[kept - 1][name])


def test_the_trainer_shows_its_sites():
    t = trainer(functions())
    assert t.parameters() == []
    fit(t, epochs=1)
    state = pyro.get_param_store().get_state()["params"]
    expected = [state[name] for name in ("noise", "scale", "shift", "slope")]
    assert [*map(id, t.parameters())] == [*map(id, expected)]


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, pickle.dumps])
def test_copies_that_would_share_the_store_are_refused(copied):
    t = trainer(modules())
    fit(t, epochs=1)
    with pytest.raises(TypeError, match=r"sites \['noise'\] are in Pyro's store"):
        copied(t)


def test_a_step_that_is_not_finite_names_the_site_and_leaves_it():
    def exploding(x):
        model(x)
        # Finite, with a gradient that is not
        pyro.factor("more", (0 * pyro.param("slope")).abs().sqrt().sum())

    t = fit(trainer({"model": model, "guide": guide}), epochs=1)
    t.model = exploding
    before = stored()
    with pytest.raises(FloatingPointError, match="gradient of slope became NaN"):
        fit(t, epochs=1)
    assert all(map(torch.equal, stored().values(), before.values()))
