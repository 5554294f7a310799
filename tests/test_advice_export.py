"""What is said about leaving for other tools, and that its advice works."""

import contextlib
import json
import sys
import types
from unittest import mock

import pyro
import pyro.distributions as dist
import torch
from advice import Cases
from torch import nn

from pyro_vae import Trainer, callbacks, export, guides, infer, likelihoods, load, models, save
from pyro_vae.programs.program import Guide

cases = Cases()
X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


def pair(**options):
    vae = models.VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(4,), **options)
    return vae, guides.BottomUp(vae)


@contextlib.contextmanager
def standing_in(**modules):
    """Have modules in the place of packages, which need not be installed."""
    with mock.patch.dict(sys.modules, modules):
        yield


def stub_of_safetensors():
    """Of the package the one function that writes, which is not what is tried here."""
    return types.SimpleNamespace(save=lambda tensors, metadata: b"", load=lambda content: {})


@cases
def packages(tmp):
    def without():
        with standing_in(mlflow=None):
            callbacks.MLflow()

    # The command installs the package
    yield without, None


@cases
def folders(tmp):
    class Stateful(models.VAE):
        def __init__(self):
            super().__init__((6,), 2, likelihood=likelihoods.Gaussian())
            self.more = Counting()

    class Counting(nn.Module):
        def get_extra_state(self):
            return {"count": 1}

        def set_extra_state(self, state):
            pass

    def written(obj):
        with standing_in(**{"safetensors.torch": stub_of_safetensors()}):
            obj.to_safetensors(tmp / "folder")

    def read():
        with standing_in(**{"safetensors.torch": stub_of_safetensors()}):
            load(tmp / "folder")

    def again():
        written(pair()[0])
        with contextlib.suppress(ValueError):
            read()

    stateful = Stateful()
    yield (
        lambda: written(stateful),
        lambda: save(Trainer(stateful, guides.BottomUp(stateful)), tmp / "a.pt", arguments=False),
    )
    written(pair()[0])
    config = tmp / "folder" / "config.json"
    config.write_text("[]")
    yield read, again
    config.write_text(json.dumps({**json.loads(config.read_text()), "sha256": ""}))
    yield read, again

    def model(x):
        with pyro.plate("rows", len(x)):
            z = pyro.sample("z", dist.Normal(0.0, 1.0))
            pyro.sample("x", dist.Normal(z[:, None].expand(-1, 6), 1.0).to_event(1), obs=x)

    class Own(Guide):
        def forward(self, x):
            with pyro.plate("rows", len(x)):
                pyro.sample("z", dist.Normal(x.mean(1), 1.0))

    guide = Own(model)
    yield (
        lambda: written(guide),
        lambda: save(Trainer(model, guide), tmp / "b.pt", arguments=False),
    )


@cases
def graphs(tmp):
    vae, _ = pair()
    network = nn.Linear(6, 2)

    def exported():
        torch.export.export(network, (X,))

    yield lambda: export.encoder(network), exported
    yield lambda: export.decoder(network), exported
    yield lambda: export.decoder(vae, sites=()), lambda: export.decoder(vae)
    given, own = pair(condition=models.Covariates(numbers=1))
    y = {"numbers": torch.zeros(8, 1)}
    yield (
        lambda: export.encoder(own),
        lambda: infer.encode(own, X, y=y),
        lambda: infer.decode(given, {"z1": X[:, :2]}, x=X, y=y),
    )
    flow = guides.Flow(vae)
    yield (
        lambda: export.encoder(flow),
        lambda: infer.encode(flow, X),
        lambda: infer.decode(vae, {"z1": X[:, :2]}),
    )


@cases
def summed_out(tmp):
    vae, guide = pair(condition=2, labels="partial")

    class Ours(types.SimpleNamespace):
        __version__ = "0.23.4"

        def InferenceData(self, **groups):
            return groups

    stubs = {"arviz": Ours(), "xarray": types.SimpleNamespace(Dataset=lambda sites, coords: sites)}

    def given(guide):
        with standing_in(**stubs):
            infer.to_inference_data(vae, guide, X, draws=2)

    yield lambda: given(guide), lambda: given(guides.Labelled(guide))


@cases
def pruning(tmp):
    def trial(direction):
        study = types.SimpleNamespace(direction=types.SimpleNamespace(name=direction))
        with standing_in(optuna=types.SimpleNamespace(TrialPruned=KeyError)):
            callbacks.Optuna(types.SimpleNamespace(study=study))

    yield lambda: trial("MINIMIZE"), lambda: trial("MAXIMIZE")


test_the_advice_works_on_what_provokes_it = cases.test()
