"""What type checkers and help see of the public names."""

from __future__ import annotations

import importlib.util
import inspect
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from torch import Tensor, nn

import pyro_vae
from pyro_vae.ground.recorded import Recorded

HERE = Path(__file__).parent
# A script of a user: the type of each line that is revealed
REVEALED = {
    "digits": "DataSplits",
    "digits.train.x": "Tensor",
    "vae": "VAE",
    "guide": "BottomUp",
    "trainer": "Trainer[VAE, BottomUp]",
    "trainer.model": "VAE",
    "trainer.guide": "BottomUp",
    "trainer.fit(digits.train, epochs=2)": "Trainer[VAE, BottomUp]",
    "trainer.swap_guide(guides.Ladder(vae))": "Trainer[VAE, Ladder]",
    'trainer.history[-1]["elbo"]': "float",
    'trainer.history[-1]["validation"]["kl"]': "dict[str, float]",
    'trainer.history[-1]["sigma"]': "float",
    "trainer.optimizer": "Optimizer | None",
    "trainer.elbo": "Estimator",
    'Trainer.resume("runs/a")': "Trainer[Model, Guide]",
    'load("model.pt")': "Trainer[Model, Guide] | Model | Guide",
    'load("model.pt", expect=Trainer)': "Trainer[Model, Guide]",
    'load("model.pt", expect=models.VAE)': "VAE",
    'load("model.pt", expect=priors.FlowPrior, classes=[models.VAE])': "FlowPrior",
    'load("model.pt", model=vae, guide=guide)': "Trainer[VAE, BottomUp]",
    "handlers.scale_latents(vae, 0.5)": "VAE",
    "handlers.missing(vae)": "VAE",
    "handlers.free_bits(guide, 0.5)": "BottomUp",
    "handlers.corrupt(guide, 0.5)": "BottomUp",
    "diagnostics.evaluate(vae, guide, digits.test)": "Evaluation",
    "diagnostics.collapse(vae, guide, digits.test)": "Collapse",
    "diagnostics.layers(vae, guide, digits.test)": "Layers",
    "infer.importance(vae, guide, x)": "ImportanceEstimate",
    "infer.annealed(vae, guide, x)": "AnnealedEstimate",
    "infer.elbo_terms(vae, guide, x)": "ELBOTerms",
    "infer.elbo_terms(vae, guide, x).kl": "dict[str, Tensor]",
    'infer.compare_guides(vae, {"a": guide}, x)': "GuideComparison",
    "infer.structure(vae, x)": "Structure",
    "infer.SVI(vae, guide)": "SVI",
    "export.encoder(guide)": "Module",
    'vae.push_to_hub("me/toys")': "str",
    "callbacks.MLflow().run": "str | None",
    "guide.encode(x)": "Encoding",
    "guide.encode(x).mean": "dict[str, Tensor]",
    "vae.sample(3)": "Tensor",
    "vae.decode(x)": "Distribution",
    "plots.reconstructions(vae, guide, x)": "Figure",
    "priors.AggregatePosterior(10)": "AggregatePosterior",
    "schedules.WarmUp(epochs=3)": "WarmUp",
    "estimators.VAETransformer(2).fit(x)": "VAETransformer",
    "estimators.VAETransformer(2).score(x)": "float",
}
MISTAKES = (
    "models.VAE((6,), latent=3, likelihood=likelihoods.Gaussian())",
    "models.VAE((6,), 3)",
    'Trainer(vae, guide, engine="jit")',
    'Trainer(vae, guide, beta="warm-up")',
    "guides.BottomUp(vae, hiden=(3,))",
    "estimators.VAETransformer(latent=2)",
    'data.load("digits", binarise=None)',
    "trainer.fit(digits.train, epoch=3)",
    'trainer.history[-1]["elbo"].mean()',
    "pyro_vae.Trainr",
    "pyro_vae.estimators.VAETransfomer",
    "plots.sample(vae)",
)
SETUP = """\
import pyro_vae
from pyro_vae import (
    Trainer, callbacks, data, diagnostics, estimators, export, guides, handlers, infer,
    likelihoods, load, models, plots, priors, schedules,
)

digits = data.load("digits")
x = digits.test.x
vae = models.VAE(digits.event_shape, latents=(16, 8), likelihood=likelihoods.Bernoulli())
guide = guides.BottomUp(vae)
trainer = Trainer(vae, guide, seed=0)
"""


def checked(folder: Path, script: str) -> list[dict]:
    """What a type checker says of a script, in order."""
    (folder / "script.py").write_text(script)
    settings = {
        "typeCheckingMode": "standard",
        "extraPaths": [str(HERE.parent)],
        "pythonVersion": "3.11",
    }
    (folder / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [
        sys.executable,
        "-m",
        "basedpyright",
        "--outputjson",
        "--pythonpath",
        sys.executable,
    ]
    done = subprocess.run([*command, "-p", folder], capture_output=True, text=True, check=False)
    return json.loads(done.stdout)["generalDiagnostics"]


@pytest.mark.skipif(not importlib.util.find_spec("basedpyright"), reason="needs basedpyright")
def test_a_users_script_has_types_and_its_mistakes_are_found(tmp_path):
    lines = [*SETUP.splitlines(), *(f"reveal_type({line})" for line in REVEALED), *MISTAKES]
    found: dict[str, list[dict]] = {}
    for told in checked(tmp_path, "\n".join(lines)):
        found.setdefault(lines[told["range"]["start"]["line"]], []).append(told)
    for line, expected in REVEALED.items():
        (told,) = found[f"reveal_type({line})"]
        assert re.search('is "(.*)"$', told["message"])[1] == expected, told
    for line in MISTAKES:
        assert any(told["severity"] == "error" for told in found.pop(line)), line
    wrong = [line for line, told in found.items() if any(t["severity"] == "error" for t in told)]
    assert not wrong


def public():
    rooms = (getattr(pyro_vae, name) for name in pyro_vae.__all__ if name not in ("__version__",))
    for room in rooms:
        for name in getattr(room, "__all__", ()):
            yield f"{room.__name__}.{name}", getattr(room, name)
    for name in ("Trainer", "load", "save"):
        yield name, getattr(pyro_vae, name)


CALLED = {name: value for name, value in public() if callable(value)}


@pytest.mark.parametrize("name", CALLED)
def test_help_shows_what_is_called(name):
    called = CALLED[name]
    if isinstance(called, type) and issubclass(called, Warning | Tensor):
        return
    shown = inspect.signature(called)
    kinds = [parameter.kind for parameter in shown.parameters.values()]
    assert kinds[:2] != [inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD]


def test_help_of_a_class_is_that_of_its_own_constructor():
    class Plain(Recorded):
        pass

    class Given(Plain):
        def __init__(self, a, *, b=1):
            pass

    class Below(Given):
        pass

    class Module(Recorded, nn.Module):
        pass

    shown = [str(inspect.signature(c)) for c in (Plain, Given, Below, Module)]
    assert shown == ["()", "(a, *, b=1)", "(a, *, b=1)", "()"]


def results():
    for name, called in CALLED.items():
        if not inspect.isclass(called):
            yield name, called
            continue
        for member, value in inspect.getmembers(called):
            value = value.fget if isinstance(value, property) else value
            if not member.startswith("_") and inspect.isfunction(value):
                yield f"{name}.{member}", value


# One name per function, whichever class inherits it
RESULTS = {value: name for name, value in results() if value.__module__.startswith("pyro_vae")}


@pytest.mark.parametrize("function", RESULTS, ids=RESULTS.values())
def test_no_public_result_is_any(function):
    # That of load is told by its overloads
    if function is not pyro_vae.load:
        assert function.__annotations__["return"] not in ("Any", "object")


def test_completion_offers_what_is_meant():
    vae = pyro_vae.models.VAE((6,), 2, likelihood=pyro_vae.likelihoods.Gaussian())
    guide = pyro_vae.guides.BottomUp(vae)
    trainer = pyro_vae.Trainer(vae, guide)
    for thing, names in (
        (trainer, {"fit", "guide", "history", "model", "resume", "save", "swap_guide"}),
        (vae, {"decode", "latents", "sample", "structure", "parameters", "train"}),
        (guide, {"encode", "latents", "model", "conditionals"}),
    ):
        shown = {*dir(thing)}
        assert names <= shown
        assert not {"of_file", "absent", "inside", "state", "subject", "steps"} & shown
        assert all(hasattr(thing, name) for name in type(thing).inside)


ROOMS = [name for name in pyro_vae.__all__ if hasattr(getattr(pyro_vae, name), "__path__")]


@pytest.mark.parametrize("room", ROOMS)
def test_completion_of_a_room_offers_its_public_names(room):
    found = getattr(pyro_vae, room)
    assert dir(found) == sorted(found.__all__)
    assert all(hasattr(found, name) for name in dir(found))
