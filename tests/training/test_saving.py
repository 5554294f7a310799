import functools
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from saved import GREY, PAIR, X, bound, digest, fit, rows, tensors, through_file, trainer, vae
from torch import nn

from pyro_vae import Trainer, guides, handlers, infer, likelihoods, load, save, schedules
from pyro_vae.ground.recorded import Recorded
from pyro_vae.models import VAE
from pyro_vae.networks import MLP
from pyro_vae.programs.program import Guide, Model
from pyro_vae.storage.sealed import seal


def shared_network(model):
    return guides.BottomUp(model, encoder=model.decoder)


def corrupted(model):
    return handlers.corrupt(guides.BottomUp(model), 0.3)


def scaled(beta):
    return lambda model: handlers.scale_latents(guides.BottomUp(model), beta)


momentum = functools.partial(torch.optim.SGD, momentum=0.9, nesterov=True)
warm_up = {"z1": schedules.WarmUp(steps=8), "z2": schedules.Cyclical(steps=3, ratio=0.9)}

TRAINERS = {
    "one layer": lambda: trainer(),
    "two layers": lambda: trainer(vae((3, 2), hidden=((8, 8), (5,)))),
    "skip": lambda: trainer(vae((3, 2), skip=True)),
    "condition": lambda: trainer(vae(condition=3)),
    "activation": lambda: trainer(vae(activation=nn.SiLU)),
    "Delta": lambda: trainer(guide=guides.Delta, beta=0.0),
    "Bernoulli": lambda: trainer(vae(likelihood=likelihoods.Bernoulli())),
    "guide's own widths": lambda: trainer(guide=functools.partial(guides.BottomUp, hidden=(5, 4))),
    "Recorded decoder": lambda: trainer(vae(decoder=MLP((2,), (7,), (6,), activation=nn.Tanh))),
    "shared network": lambda: trainer(vae(6, decoder=MLP((6,), (7,), (6,))), shared_network),
    "corrupt": lambda: trainer(guide=corrupted),
    "scale_latents": lambda: trainer(handlers.scale_latents(vae(), 3.0), scaled(3.0)),
    "beta mapping": lambda: trainer(vae((3, 2)), beta={"z1": 0.5, "z2": torch.tensor(2.0)}),
    "schedules": lambda: trainer(vae((3, 2)), beta=warm_up),
    "analytic": lambda: trainer(elbo="analytic", clip_norm=0.5),
    "estimator": lambda: trainer(elbo=infer.TraceELBO("sum"), lr=1e-4),
    "AdamW": lambda: trainer(optimizer=torch.optim.AdamW),
    "RMSprop": lambda: trainer(optimizer=torch.optim.RMSprop),
    "momentum": lambda: trainer(optimizer=momentum),
}  # fmt: skip


def training_data(name):
    return GREY if name == "Bernoulli" else PAIR


# What comes back

FRESH = """
import json, sys
sys.path.insert(0, sys.argv[2])
import torch
torch.set_num_threads(1)
import test_saving as t
found = {}
for path in sorted(t.Path(sys.argv[1]).glob("*.pt")):
    state = torch.get_rng_state()
    trainer = t.load(path)
    found[path.stem] = {
        "stream": torch.equal(torch.get_rng_state(), state),
        "shared": t.unwrapped(trainer.guide).model is trainer.model,
        **t.outcome(trainer, path.stem),
    }
print(json.dumps(found))
"""


def unwrapped(program):
    return getattr(program, "program", program)


def outcome(t, name):
    """What evaluation and two more epochs give."""
    x = X.gt(0).float() if name == "Bernoulli" else X
    found = {"bound": bound(t, x).numpy().tobytes().hex(), "before": digest(*t.modules())}
    fit(t, training_data(name))
    return {**found, "after": digest(*t.modules()), "rows": rows(t)}


@pytest.fixture(scope="module")
def in_a_fresh_process(tmp_path_factory):
    """Save every trainer after two epochs; what a new process makes of the files, and this one."""
    folder = tmp_path_factory.mktemp("files")
    here = {}
    for name, build in TRAINERS.items():
        t = fit(build(), training_data(name))
        t.save(folder / f"{name}.pt")
        here[name] = outcome(t, name)
    command = [sys.executable, "-c", FRESH, str(folder), str(Path(__file__).parent)]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    return here, json.loads(result.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", TRAINERS)
def test_a_fresh_process_evaluates_and_resumes_to_the_last_bit(in_a_fresh_process, name):
    here, there = (found[name] for found in in_a_fresh_process)
    assert there.pop("stream") and there.pop("shared")
    assert there == here


@pytest.mark.parametrize("beta", [2.0, schedules.WarmUp(epochs=3)], ids=str)
def test_resuming_equals_a_run_without_interruption(tmp_path, beta):
    whole = fit(trainer(beta=beta), epochs=4)
    resumed = fit(through_file(fit(trainer(beta=beta)), tmp_path))
    assert rows(resumed) == rows(whole)
    assert digest(*resumed.modules()) == digest(*whole.modules())


def test_resuming_from_a_file_written_during_training(tmp_path):
    class Keep:
        def on_epoch_end(self, trainer, row, **kwargs):
            trainer.save(tmp_path / f"{row['epoch']}.pt")

    whole = fit(trainer(), epochs=4, callbacks=[Keep()], validation=PAIR)
    for epoch in (1, 2, 3):
        resumed = load(tmp_path / f"{epoch}.pt")
        assert rows(resumed) == rows(whole)[:epoch]
        fit(resumed, epochs=4 - epoch, validation=PAIR)
        assert rows(resumed) == rows(whole)
        assert digest(*resumed.modules()) == digest(*whole.modules())


def test_settings_and_history_come_back(tmp_path):
    schedule = {"z1": schedules.WarmUp(epochs=3), "z2": 0.5}
    first = fit(trainer(vae((3, 2)), beta=schedule, clip_norm=2.0), validation=PAIR)
    first.lr = 1e-4
    again = through_file(first, tmp_path)
    assert again.history == first.history and type(again.history) is type(first.history)
    assert (again.step, again.lr, again.beta) == (6, 1e-4, schedule)
    assert (again.clip_norm, again.seed) == (2.0, 0)
    assert again.optimizer_class is torch.optim.Adam
    assert repr(again) == repr(first)


def test_a_swap_before_saving_is_told_after_loading(tmp_path):
    first = fit(trainer())
    first.swap_guide(guides.Delta(first.model))
    again = through_file(first, tmp_path)
    assert type(again.guide) is guides.Delta
    assert fit(again).history.column("swapped") == [None, None, True, None]


def test_frozen_parameters_stay_frozen(tmp_path):
    first = trainer()
    first.model.decoder.requires_grad_(False)
    first.guide.conditionals["z1"].loc.bias.requires_grad_(False)
    again = through_file(first, tmp_path)
    for kept, found in zip(first.modules(), again.modules(), strict=True):
        assert [p.requires_grad for p in kept.parameters()] == [
            p.requires_grad for p in found.parameters()
        ]
    before = digest(again.model)
    assert digest(fit(again).model) == before


def test_models_and_guides_on_their_own(tmp_path):
    model = vae((3, 2))
    guide = guides.BottomUp(model)
    again = through_file(model, tmp_path)
    assert type(again) is VAE and repr(again) == repr(model)
    assert digest(again) == digest(model)
    again = through_file(guide, tmp_path)
    assert type(again) is guides.BottomUp and repr(again.model) == repr(model)
    assert digest(again, again.model) == digest(guide, model)


def test_objects_that_were_one_stay_one(tmp_path):
    again = through_file(trainer(vae(6, decoder=MLP((6,), (7,), (6,))), shared_network), tmp_path)
    assert again.guide.model is again.model
    assert again.guide.conditionals["z1"].network is again.model.decoder


def test_wrapped_programs_stay_wrapped(tmp_path):
    first = trainer(handlers.scale_latents(vae(), {"z1": 3.0}), corrupted)
    again = through_file(first, tmp_path)
    assert repr(again) == repr(first)
    assert "scale_latents(beta={'z1': 3.0})" in repr(again)
    assert isinstance(again.model, Model) and isinstance(again.guide, Guide)
    assert again.guide.model is again.model


def test_double_precision_is_kept(tmp_path):
    model = vae().double()
    again = through_file(model, tmp_path)
    assert {v.dtype for v in tensors(again)} == {torch.float64}
    assert digest(again) == digest(model)
    assert again(size=2).dtype == torch.float64


def test_where_to_put_the_tensors(tmp_path):
    again = through_file(trainer(), tmp_path, device="cpu")
    assert again.device == torch.device("cpu")
    assert {v.device.type for v in tensors(*again.modules())} == {"cpu"}


# Networks and optimizers of the user's own


def own_pair():
    torch.manual_seed(0)
    decoder = nn.Sequential(nn.Linear(2, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 6))
    encoder = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.ReLU())
    model = VAE((6,), 2, likelihood=likelihoods.Gaussian(), decoder=decoder)
    return model, guides.BottomUp(model, encoder=encoder)


def test_a_module_that_the_file_cannot_describe_is_an_error_with_its_way_out(tmp_path):
    t = Trainer(*own_pair())
    with pytest.raises(TypeError, match=r"model.*decoder.*Sequential.*arguments=False.*load\("):
        t.save(tmp_path / "file.pt")
    assert list(tmp_path.iterdir()) == []


def test_tensors_alone_go_into_a_pair_of_the_users_own(tmp_path):
    path = tmp_path / "file.pt"
    first = fit(Trainer(*own_pair(), seed=0, lr=1e-2))
    save(first, path, arguments=False)
    with pytest.raises(ValueError, match=r"file.pt: .*tensors of the model .*load\(path, model="):
        load(path)
    model, guide = own_pair()
    with pytest.raises(ValueError, match=r"file.pt: .*tensors of the guide .*load\(path, guide="):
        load(path, model=model)
    again = load(path, model=model, guide=guide)
    assert (again.model, again.guide) == (model, guide)
    assert any("running_mean" in key for key in model.state_dict())
    assert digest(*again.modules()) == digest(*first.modules())
    assert torch.equal(bound(again), bound(first))
    assert rows(fit(again)) == rows(fit(first))
    assert digest(*again.modules()) == digest(*first.modules())


class Normalised(Recorded, nn.Sequential):
    """A network of the user's own that a file can describe."""

    def __init__(self, width):
        super().__init__(nn.Linear(2, width), nn.BatchNorm1d(width), nn.Linear(width, 6))


def test_buffers_of_a_recorded_network_come_back(tmp_path):
    first = fit(trainer(vae(decoder=Normalised(5))))
    again = through_file(first, tmp_path)
    assert type(again.model.decoder) is Normalised
    assert torch.equal(again.model.decoder[1].running_var, first.model.decoder[1].running_var)
    assert torch.equal(bound(again), bound(first))


def test_one_own_program_and_the_other_from_the_file(tmp_path):
    first = fit(trainer())
    first.save(tmp_path / "file.pt")
    model = vae(hidden=(8,))
    again = load(tmp_path / "file.pt", model=model)
    assert again.model is model and again.guide.model is model
    guide = guides.BottomUp(model)
    again = load(tmp_path / "file.pt", guide=guide)
    assert again.guide is guide and again.model is model
    assert digest(*again.modules()) == digest(*first.modules())


def test_an_optimizer_that_the_file_cannot_describe(tmp_path):
    def make(parameters, lr):
        return torch.optim.Adam(parameters, lr=lr, betas=(0.5, 0.9))

    first = fit(trainer(optimizer=make))
    with pytest.raises(TypeError, match=r"optimizer.*function"):
        first.save(tmp_path / "file.pt")
    save(first, tmp_path / "file.pt", arguments=False)
    given = {"model": vae()}
    given["guide"] = guides.BottomUp(given["model"])
    with pytest.raises(ValueError, match=r"file.pt: .*load\(path, optimizer=\.\.\.\)"):
        load(tmp_path / "file.pt", **given)
    again = load(tmp_path / "file.pt", **given, optimizer=make)
    assert rows(fit(again)) == rows(fit(first))


def test_saving_and_loading_leave_the_global_stream_alone(tmp_path):
    t = fit(trainer())
    before = torch.get_rng_state()
    through_file(t, tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


def in_place(network):
    network.compile(backend="eager")
    return network


def wrapped(network):
    return torch.compile(network, backend="eager")


@pytest.mark.parametrize("kind", [in_place, wrapped])
def test_compiled_networks_keep_the_names_of_their_tensors(kind, tmp_path):
    t, plain = trainer(), trainer()
    t.model.decoder = kind(t.model.decoder)
    t.model.decoder.layers[0].requires_grad_(False)
    with torch.no_grad():
        t.model.decoder.layers[1].weight.fill_(2.0)
    again = through_file(t, tmp_path)
    assert [*again.model.state_dict()] == [*plain.model.state_dict()]
    assert digest(again.model, again.guide) == digest(t.model, t.guide)
    assert not again.model.decoder.layers[0].weight.requires_grad
    assert again.model.decoder.layers[1].weight.requires_grad
    own, guide = vae(), plain.guide
    own.decoder = kind(own.decoder)
    load(tmp_path / "file.pt", model=own, guide=guide)
    assert digest(own, guide) == digest(t.model, t.guide)


def test_a_file_of_the_engine_that_is_gone_goes_on_with_graphs(tmp_path):
    t = trainer()
    save(t, tmp_path / "file.pt")
    content = torch.load(tmp_path / "file.pt", weights_only=True)
    content["json"] = content["json"].replace('"engine": null', '"engine": "auto"')
    assert "auto" in content["json"]
    buffer = io.BytesIO()
    torch.save(content, buffer)
    (tmp_path / "file.pt").write_bytes(seal(buffer.getvalue()))
    with pytest.warns(UserWarning, match="engine 'auto' .* goes on with engine='graph'"):
        again = load(tmp_path / "file.pt")
    assert again.engine == "graph"
    assert digest(again.model, again.guide) == digest(t.model, t.guide)
