"""A model or a guide in the layout of the hub: what is written, read again, and refused."""

import contextlib
import hashlib
import io
import json
import re
import sys

import pytest
import torch
from torch import nn

from pyro_vae import diagnostics, guides, likelihoods, load, models

FILES = ["README.md", "config.json", "model.safetensors"]
WITH = {"reason": "pip install 'pyro_vae[hub]'"}


@pytest.fixture
def safetensors():
    return pytest.importorskip("safetensors.torch", **WITH)


def pair(guide=guides.BottomUp, **options):
    torch.manual_seed(0)
    options = {"likelihood": likelihoods.Gaussian("learned"), "hidden": (8,), **options}
    vae = models.VAE((6,), **{"latents": (3, 2), **options})
    return vae, guide(vae)


def same(first, second):
    first, second = first.state_dict(), second.state_dict()
    assert first.keys() == second.keys()
    return all(torch.equal(value, second[key]) for key, value in first.items())


class Tied(nn.Module):
    """A decoder of a person's own, of which two layers are one, and a part of a larger tensor."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(2, 6)
        self.second = self.first
        self.register_buffer("all", torch.arange(12.0))
        self.register_buffer("some", self.all[:6])

    def forward(self, z):
        return self.first(z) + self.second(z) + self.some


def test_a_guide_comes_back_with_its_model(safetensors, tmp_path):
    vae, guide = pair(guides.Ladder, condition=3)
    for parameter in vae.decoder.parameters():
        parameter.requires_grad_(False)
    guide.to_safetensors(tmp_path / "new")
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == FILES
    again = load(tmp_path / "new", expect=guides.Ladder)
    assert same(guide, again)
    assert same(vae, again.model)
    assert not any(p.requires_grad for p in again.model.decoder.parameters())
    assert all(p.requires_grad for p in again.parameters())
    x, y = torch.randn(5, 6), torch.arange(5) % 3
    assert torch.equal(guide.encode(x, y=y).mean["z1"], again.encode(x, y=y).mean["z1"])


def test_codes_and_what_their_books_know_come_back(safetensors, tmp_path):
    vq = models.VQVAE((1, 8, 8), 8, 4, likelihood=likelihoods.Bernoulli())
    vq.codebook.freeze()
    vq.to_safetensors(tmp_path)
    again = load(str(tmp_path), expect=models.VQVAE)
    assert same(vq, again)
    assert again.codebook.frozen
    with pytest.raises(TypeError, match="expected a VAE, got a VQVAE"):
        load(tmp_path, expect=models.VAE)


def test_an_argument_that_json_cannot_hold_is_named_before_anything_is_written(
    safetensors, tmp_path
):
    decoder = Tied()
    vae, _ = pair(latents=2, likelihood=likelihoods.Gaussian(), decoder=decoder)
    with pytest.raises(TypeError, match="decoder"):
        vae.to_safetensors(tmp_path)
    assert not list(tmp_path.iterdir())


def test_the_file_is_one_of_safetensors_whatever_tensors_share(safetensors, tmp_path):
    class Shared(models.VAE):
        def __init__(self, **options):
            super().__init__((6,), 2, likelihood=likelihoods.Gaussian(), **options)
            self.tied = Tied()

    vae = Shared()
    vae.to_safetensors(tmp_path)
    tensors = safetensors.load_file(tmp_path / "model.safetensors")
    assert "model.tied.first.weight" in tensors
    assert "model.tied.second.weight" not in tensors
    again = load(tmp_path)
    assert same(vae, again)
    assert again.tied.second is again.tied.first


def test_the_configuration_is_plain_data(safetensors, tmp_path):
    vae, _ = pair()
    vae.to_safetensors(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["library_name"] == "pyro_vae"
    assert config["parts"]["model"]["$class"] == "models.VAE"
    assert config["parts"]["model"]["arguments"]["latents"] == [3, 2]
    content = (tmp_path / "model.safetensors").read_bytes()
    assert config["sha256"] == hashlib.sha256(content).hexdigest()


def test_the_card_tells_the_evaluation_and_how_to_load(safetensors, tmp_path, monkeypatch):
    vae, guide = pair()
    found = diagnostics.evaluate(vae, guide, torch.randn(20, 6), importance_samples=20)
    options = {"licence": "apache-2.0", "tags": ["toys", "pyro"], "title": "Toys"}
    guide.to_safetensors(tmp_path, evaluation=found, **options)
    card = (tmp_path / "README.md").read_text()
    head, _, text = card.removeprefix("---\n").partition("\n---\n")
    assert head.splitlines() == [
        "library_name: pyro_vae",
        'license: "apache-2.0"',
        "tags:",
        *(f'- "{tag}"' for tag in ("pyro_vae", "pytorch", "pyro", "variational-autoencoder")),
        '- "toys"',
    ]
    assert found.to_markdown() in text
    assert "\n# Toys\n" in text
    assert repr(guide) in text
    monkeypatch.chdir(tmp_path)
    (code,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    with contextlib.redirect_stdout(io.StringIO()) as shown:
        exec(code, {})
    assert shown.getvalue() == f"{vae}\n"
    vae.to_safetensors(tmp_path)
    assert "license" not in (tmp_path / "README.md").read_text()


def test_the_front_matter_is_what_the_hub_reads(safetensors, tmp_path):
    hub = pytest.importorskip("huggingface_hub", **WITH)
    vae, _ = pair()
    vae.to_safetensors(tmp_path, licence="mit", tags=["a: b"])
    data = hub.ModelCard.load(tmp_path / "README.md").data
    assert (data.license, data.library_name) == ("mit", "pyro_vae")
    assert data.tags[-1] == "a: b"


def test_files_of_two_writings_and_damaged_ones_are_refused(safetensors, tmp_path):
    pair()[0].to_safetensors(tmp_path)
    config = (tmp_path / "config.json").read_text()
    pair(latents=2)[0].to_safetensors(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(config)
    with pytest.raises(ValueError, match=r"model.safetensors: its checksum .* take another copy"):
        load(tmp_path)
    path.write_text("{")
    with pytest.raises(
        ValueError, match=r"config.json: expected what to_safetensors writes: take"
    ):
        load(tmp_path)
    path.write_text("[]")
    with pytest.raises(
        ValueError, match=r"config.json: expected what to_safetensors writes: take"
    ):
        load(tmp_path)
    path.write_text(json.dumps({**json.loads(config), "sha256": None}))
    with pytest.raises(ValueError, match="checksum"):
        load(tmp_path)
    foreign = b"of something else" * 9
    (tmp_path / "model.safetensors").write_bytes(foreign)
    digest = hashlib.sha256(foreign).hexdigest()
    path.write_text(json.dumps({**json.loads(config), "sha256": digest}))
    with pytest.raises(ValueError, match=r"model.safetensors: .*: take another copy"):
        load(tmp_path)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
def test_a_file_that_is_missing_is_named(safetensors, tmp_path, name):
    pair()[0].to_safetensors(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load(tmp_path)


def test_a_file_that_cannot_be_written_leaves_what_was_there(safetensors, tmp_path, monkeypatch):
    vae, _ = pair()
    vae.to_safetensors(tmp_path)
    other, _ = pair(latents=2)

    def fail(*args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="No space left"):
        other.to_safetensors(tmp_path)
    monkeypatch.undo()
    assert sorted(path.name for path in tmp_path.iterdir()) == FILES
    assert same(vae, load(tmp_path))


def test_one_model_can_be_filled_with_the_tensors(safetensors, tmp_path):
    vae, _ = pair()
    vae.to_safetensors(tmp_path)
    torch.manual_seed(1)
    other = models.VAE((6,), (3, 2), likelihood=likelihoods.Gaussian("learned"), hidden=(8,))
    assert load(tmp_path, model=other) is other
    assert same(vae, other)


@pytest.mark.parametrize(
    ("package", "what"),
    [("safetensors", "to_safetensors"), ("huggingface_hub", "push_to_hub")],
)
def test_without_the_package_the_command_is_named(monkeypatch, tmp_path, package, what):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.torch", None)
    with pytest.raises(ModuleNotFoundError) as error:
        getattr(pair()[0], what)(str(tmp_path))
    assert str(error.value) == f"{what} needs the package {package}: pip install 'pyro_vae[hub]'"
