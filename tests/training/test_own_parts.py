"""A user's own classes in files: written by name and arguments, and found again in ``classes``."""

import io
import json
import sys
from types import SimpleNamespace

import pyro
import pyro.distributions as dist
import pytest
import torch
from saved import X, bound, digest, rows, through_file
from torch import nn

from pyro_vae import Recorded, Trainer, guides, handlers, likelihoods, load, models, priors, save
from pyro_vae.storage.sealed import seal


def written(place):
    """What a user wrote in a module of this name, which nobody has imported."""

    class Decoder(Recorded, nn.Module):
        __module__, __qualname__ = place, "Decoder"

        def __init__(self, width, *, slope=0.1):
            super().__init__()
            self.slope = slope
            self.layers = nn.Sequential(nn.Linear(2, width), nn.Linear(width, 6))

        def forward(self, z):
            return nn.functional.leaky_relu(self.layers(z), self.slope)

    class Above(nn.Module, Recorded):
        """A conditional, the mixin last, that holds another recorded part."""

        __module__, __qualname__ = place, "Above"

        def __init__(self, network):
            super().__init__()
            self.network = network

        def forward(self, z2):
            return dist.Normal(self.network(z2)[:, :2], 0.5).to_event(1)

    class Wider(guides.BottomUp):
        __module__, __qualname__ = place, "Wider"

        def __init__(self, vae, times, **options):
            super().__init__(vae, **options)
            self.times = times

        def forward(self, x, *, y=None):
            return super().forward(x * self.times, y=y)

    class Scaled(likelihoods.Likelihood):
        __module__, __qualname__ = place, "Scaled"

        def __init__(self, powers=(1.0, 2.0)):
            super().__init__()
            self.powers = powers
            self.log_scale = nn.Parameter(torch.zeros(6))

        def forward(self, features):
            return dist.Normal(features, (self.powers[1] * self.log_scale).exp()).to_event(1)

    class Ring(Recorded, nn.Module):
        """A prior."""

        __module__, __qualname__ = place, "Ring"

        def __init__(self, components):
            super().__init__()
            self.components = components
            self.means = nn.Parameter(torch.randn(components, 2))

        def forward(self, *context):
            normals = dist.Normal(self.means, 1.0).to_event(1)
            logits = torch.zeros(self.components)
            return dist.MixtureSameFamily(dist.Categorical(logits=logits), normals)

    class Program(Recorded, nn.Module):
        """A model without any base of the library."""

        __module__, __qualname__ = place, "Program"

        def __init__(self, width):
            super().__init__()
            self.network = nn.Sequential(nn.Linear(2, width), nn.Tanh(), nn.Linear(width, 6))

        @property
        def example(self):
            return torch.linspace(-1.0, 1.0, 24).reshape(4, 6)

        def forward(self, x):
            pyro.module("program", self)
            with pyro.plate("rows", len(x)):
                z = pyro.sample("z", dist.Normal(torch.zeros(2), 1.0).to_event(1))
                return pyro.sample("x", dist.Normal(self.network(z), 1.0).to_event(1), obs=x)

    classes = (Decoder, Above, Wider, Scaled, Ring, Program)
    return SimpleNamespace(all=classes, **{cls.__name__: cls for cls in classes})


FIRST, SECOND = written("first"), written("second")


def model(own=FIRST, **options):
    torch.manual_seed(0)
    arguments = {"likelihood": own.Scaled(), "decoder": own.Decoder(5), "hidden": (8,), **options}
    return models.VAE((6,), arguments.pop("latents", 2), **arguments)


def pair(own=FIRST, **options):
    vae = model(own, **options)
    return vae, own.Wider(vae, 0.5, hidden=(7,))


def trainer(own=FIRST, **options):
    return Trainer(*pair(own), seed=0, lr=1e-2, **options)


# There and back


# A graph is recorded after a hundred steps, of which an epoch has eight
ENGINES = pytest.mark.parametrize(("engine", "epochs"), [("eager", 2), ("graph", 14)])


def trained(t, epochs, **options):
    return t.fit(X, epochs=epochs, batch_size=5, progress=False, **options)


@ENGINES
def test_a_pair_of_own_parts_goes_on_to_the_last_bit(tmp_path, engine, epochs):
    t = trained(trainer(engine=engine), epochs)
    assert engine == "eager" or t.steps.running.records == 1
    again = through_file(t, tmp_path, classes=SECOND.all)
    own = again.model.decoder, again.model.likelihood, again.guide
    assert [type(part) for part in own] == [SECOND.Decoder, SECOND.Scaled, SECOND.Wider]
    assert again.guide.model is again.model and again.guide.times == 0.5
    assert digest(*again.modules()) == digest(*t.modules())
    assert torch.equal(bound(again), bound(t))
    assert rows(trained(again, epochs)) == rows(trained(t, epochs))
    assert digest(*again.modules()) == digest(*t.modules())


def test_conditionals_and_the_parts_that_they_hold(tmp_path):
    above = FIRST.Above(FIRST.Decoder(3))
    vae = model(latents=(2, 2), top_down={"z1": above})
    again = through_file(vae, tmp_path, classes=SECOND.all)
    assert type(again.conditionals["z1"]) is SECOND.Above
    assert type(again.conditionals["z1"].network) is SECOND.Decoder
    torch.manual_seed(1)
    drawn = vae.sample(5)
    torch.manual_seed(1)
    assert torch.equal(again.sample(5), drawn)


def test_a_program_of_its_own_and_its_guide(tmp_path):
    torch.manual_seed(0)
    program = FIRST.Program(4)
    guide = guides.BottomUp(program, hidden=(5,))
    t = Trainer(program, guide, seed=0).fit(X, epochs=2, progress=False)
    again = through_file(t, tmp_path, classes=[SECOND.Program])
    assert type(again.model) is SECOND.Program
    assert digest(*again.modules()) == digest(*t.modules())


@ENGINES
def test_an_interrupted_run_of_own_parts_is_resumed(tmp_path, engine, epochs):
    whole = trained(trainer(engine=engine), epochs)
    trained(trainer(engine=engine), 1, checkpoint=tmp_path, every=3)
    again = Trainer.resume(tmp_path, classes=SECOND.all)
    assert type(again.guide) is SECOND.Wider
    again.fit(X, epochs=epochs, progress=False)
    assert rows(again) == rows(whole)
    assert digest(*again.modules()) == digest(*whole.modules())


# Priors and other parts by themselves


def prior(name):
    torch.manual_seed(0)
    vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,))
    guide = guides.BottomUp(vae)
    if name == "vamp":
        return priors.VampPrior(guide, components=3)
    if name == "code":
        vqvae = models.VQVAE((1, 8, 8), 4, 2, likelihood=likelihoods.Bernoulli())
        code = priors.CodePrior(vqvae, width=4, layers=1)
        grids = torch.rand(8, 1, 8, 8).round()
        return code.fit(guides.NearestCode(vqvae), grids, epochs=1, progress=False)
    if name == "mixture":
        return priors.MixturePrior(2, components=3)
    if name == "own":
        return FIRST.Ring(3)
    made = {
        "aggregate": lambda: priors.AggregatePosterior(2).fit(vae, guide, X),
        "flow": lambda: priors.FlowPrior(2).fit(vae, guide, X, epochs=1),
        "two stages": lambda: priors.TwoStage(2, hidden=(4,)).fit(vae, guide, X, epochs=1),
    }
    return made[name]()


PRIORS = ["aggregate", "flow", "two stages", "mixture", "vamp", "code", "own"]


@pytest.mark.parametrize("name", PRIORS)
def test_a_prior_alone_comes_back(tmp_path, name):
    first = prior(name)
    again = through_file(first, tmp_path, classes=SECOND.all)
    own = SECOND.Ring if name == "own" else type(first)
    assert type(again) is own and repr(again).count("not fitted") == 0
    assert digest(again) == digest(first)
    torch.manual_seed(0)
    drawn = first().sample((4,))
    torch.manual_seed(0)
    assert torch.equal(again().sample((4,)), drawn)
    if name != "two stages":  # which is sampled from alone
        assert torch.equal(again().log_prob(drawn), first().log_prob(drawn))


def test_an_own_prior_at_the_top_of_a_model(tmp_path):
    vae = handlers.replace_prior(model(), FIRST.Ring(3))
    again = through_file(vae, tmp_path, classes=SECOND.all)
    torch.manual_seed(0)
    drawn = vae.sample(4)
    torch.manual_seed(0)
    assert torch.equal(again.sample(4), drawn)


def test_a_likelihood_and_a_network_alone(tmp_path):
    for part in (FIRST.Scaled((1.0, 3.0)), FIRST.Decoder(4)):
        again = through_file(part, tmp_path, classes=SECOND.all)
        assert type(again) is getattr(SECOND, type(part).__name__)
        assert digest(again) == digest(part)
    # Sequences come back as tuples
    assert through_file(FIRST.Scaled([1.0, 3.0]), tmp_path, classes=[SECOND.Scaled]).powers == (
        (1.0, 3.0)
    )


# Which class


def test_no_file_imports_what_it_names(tmp_path, monkeypatch):
    (tmp_path / "never_imported.py").write_text("raise SystemExit('it was imported')")
    monkeypatch.syspath_prepend(tmp_path)
    save(model(), tmp_path / "file.pt")
    changed(tmp_path / "file.pt", '"first.Decoder"', '"never_imported.Decoder"')
    with pytest.raises(ValueError, match=r"'never_imported\.Decoder'.*classes=\[Decoder\]"):
        load(tmp_path / "file.pt")
    load(tmp_path / "file.pt", classes=[SECOND.Decoder])
    assert "never_imported" not in sys.modules


def changed(path, old, new):
    content = torch.load(path, weights_only=True)
    assert old in content["json"]
    content["json"] = content["json"].replace(old, new)
    buffer = io.BytesIO()
    torch.save(content, buffer)
    path.write_bytes(seal(buffer.getvalue()))


def test_all_classes_that_are_needed_are_told_at_once(tmp_path):
    path = tmp_path / "file.pt"
    save(trainer(), path)
    for name in ("Decoder", "Scaled", "Wider"):
        changed(path, f'"first.{name}"', f'"gone.{name}"')
    with pytest.raises(ValueError) as error:
        load(path)
    assert "pass classes=[Scaled, Decoder, Wider]" in str(error.value)
    assert all(f"'gone.{name}'" in str(error.value) for name in ("Decoder", "Scaled", "Wider"))
    with pytest.raises(ValueError, match=r"class 'gone\.Wider' besides Scaled, Decoder: "):
        load(path, classes=[SECOND.Scaled, SECOND.Decoder])
    with pytest.raises(ValueError, match=r"needs the class.*gone"):
        load(path, classes=[models.VAE])
    # What is handed in whole needs no class
    vae, guide = pair(SECOND)
    assert load(path, model=vae, guide=guide).model is vae


def both(tmp_path):
    """A file of two classes of one name, from two modules that are gone."""
    path = tmp_path / "file.pt"
    save(model(decoder=FIRST.Decoder(5), likelihood=FIRST.Scaled()), path)
    changed(path, '"first.Decoder"', '"a.Part"')
    changed(path, '"first.Scaled"', '"b.Part"')
    return path


def test_one_class_for_two_names_is_a_clash(tmp_path):
    path = both(tmp_path)

    class Part(FIRST.Decoder):
        pass

    with pytest.raises(ValueError, match=r"classes: expected one for each of .*a\.Part.*mapping"):
        load(path, classes=[Part])
    with pytest.raises(ValueError, match=r"classes: expected one for each of"):
        load(path, classes={"Part": Part})
    again = load(path, classes={"a.Part": Part, "b.Part": SECOND.Scaled})
    assert (type(again.decoder), type(again.likelihood)) == (Part, SECOND.Scaled)


def test_two_classes_for_one_name_are_a_clash_unless_one_is_the_very_one(tmp_path):
    path = tmp_path / "file.pt"
    save(model(), path)
    assert type(load(path, classes=[FIRST.Decoder, SECOND.Decoder]).decoder) is FIRST.Decoder
    changed(path, '"first.Decoder"', '"gone.Decoder"')
    with pytest.raises(ValueError, match=r"expected one for each of \['gone\.Decoder'\], got"):
        load(path, classes=[FIRST.Decoder, SECOND.Decoder])
    again = load(path, classes={"Decoder": SECOND.Decoder})
    assert type(again.decoder) is SECOND.Decoder


@pytest.mark.parametrize(
    "classes", [FIRST.Decoder, "Decoder", 3, [nn.Linear], [FIRST.Decoder(2)], {"Decoder": "first"}]
)
def test_classes_that_are_none(tmp_path, classes):
    save(model(), tmp_path / "file.pt")
    with pytest.raises(TypeError, match=r"^classes: expected a list of classes .*Recorded"):
        load(tmp_path / "file.pt", classes=classes)


def test_a_class_whose_constructor_has_changed(tmp_path):
    class Decoder(SECOND.Decoder):
        def __init__(self, *, hidden):
            super().__init__(hidden)

    class Renamed(Decoder):
        @classmethod
        def of_file(cls, arguments):
            return {"hidden": arguments["width"]}

    path = tmp_path / "file.pt"
    save(model(), path)
    with pytest.raises(ValueError) as error:
        load(path, classes=[Decoder])
    assert "Decoder: its constructor (*, hidden) does not take the arguments" in str(error.value)
    assert "['slope', 'width'] that the file has" in str(error.value)
    assert load(path, classes={"Decoder": Renamed}).decoder.arguments == {"hidden": 5}


def test_a_class_of_other_tensors_does_not_fit(tmp_path):
    class Decoder(SECOND.Decoder):
        def __init__(self, width, slope):
            super().__init__(width + 1, slope=slope)

    save(model(), tmp_path / "file.pt")
    with pytest.raises(ValueError, match=r"(?s)file.pt: its model does not fit: .*decoder.layers"):
        load(tmp_path / "file.pt", classes=[Decoder])


def test_a_class_that_is_no_module(tmp_path):
    class Ring(Recorded):
        def __init__(self, components):
            pass

    save(FIRST.Ring(2), tmp_path / "file.pt")
    with pytest.raises(ValueError, match=r"file.pt: its part is described as a Ring: damaged"):
        load(tmp_path / "file.pt", classes=[Ring])


def test_defaults_are_those_of_the_day_when_it_was_written(tmp_path):
    class Decoder(SECOND.Decoder):
        def __init__(self, width=99, *, slope=0.9):
            super().__init__(width, slope=slope)

    save(model(), tmp_path / "file.pt")
    assert load(tmp_path / "file.pt", classes=[Decoder]).decoder.slope == 0.1


def test_a_class_of_a_module_named_like_a_room_is_not_that_of_the_library(tmp_path):
    class BottomUp(guides.BottomUp):
        __module__, __qualname__ = "guides", "BottomUp"

    vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,))
    for cls in (guides.BottomUp, BottomUp):
        assert type(through_file(cls(vae), tmp_path)) is cls
        assert type(through_file(cls(vae), tmp_path, classes=[BottomUp])) is cls
    # As such a class was named before
    save(FIRST.Ring(2), tmp_path / "file.pt")
    kept = written("guides")
    changed(tmp_path / "file.pt", '"first.Ring"', '"guides.Ring"')
    assert type(load(tmp_path / "file.pt")) is kept.Ring


def test_a_subclass_has_the_old_names_of_the_arguments_that_it_inherits(tmp_path):
    class Own(guides.BottomUp):
        pass

    vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,))
    save(Own(vae), tmp_path / "file.pt")
    description = json.loads(torch.load(tmp_path / "file.pt", weights_only=True)["json"])
    assert description["parts"]["guide"]["arguments"].keys() >= {"model"}
    changed(tmp_path / "file.pt", '"arguments": {"model": {"$ref"', '"arguments": {"vae": {"$ref"')
    assert type(load(tmp_path / "file.pt", classes=[Own])) is Own


# What does not go into a file, and damage


def test_what_a_file_cannot_hold_is_refused_before_it_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"model\.likelihood\.powers: expected a value that JSON"):
        save(model(likelihood=FIRST.Scaled({1: 1.0, 2: 2.0})), tmp_path / "file.pt")
    with pytest.raises(TypeError, match=r"^obj: expected .*pyro_vae\.Recorded.*got Linear: "):
        save(nn.Linear(2, 2), tmp_path / "file.pt")
    with pytest.raises(TypeError, match=r"with its arguments, got Ring: .*torch\.save"):
        save(FIRST.Ring(2), tmp_path / "file.pt", arguments=False)
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("at", [0.3, 0.6, 0.9])
def test_a_damaged_file_of_own_parts_is_refused(tmp_path, at):
    path = tmp_path / "file.pt"
    save(model(), path)
    content = bytearray(path.read_bytes())
    content[int(at * len(content))] ^= 1
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"file.pt: not a checkpoint of pyro_vae, or a damaged"):
        load(path, classes=SECOND.all)
