"""The command line trains on sound and video, and gives sound and video."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from pyro_vae import load
from pyro_vae.cli import main
from pyro_vae.data import read_wav, write_wav

TINY = [
    "--epochs",
    "1",
    "--channels",
    "2",
    "--blocks",
    "0",
    "--importance-samples",
    "0",
    "--quiet",
]


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sounds")
    torch.manual_seed(0)
    for i in range(20):
        write_wav(folder / f"{i}.wav", torch.rand(2, 16 + i % 3) - 0.5, 11_025)
    return folder


@pytest.fixture(scope="module")
def codes(sounds, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "codes"
    argv = ["train", "--data", str(sounds), "--length", "16", "--codes", "4", "--out", str(out)]
    assert main([*argv, "--lr", "0.004", *TINY]) == 0
    return out


def test_sound_is_trained_on_and_drawn(codes, tmp_path, capsys):
    record = json.loads((codes / "run.json").read_text())
    assert record["data"]["rate"] == 11_025 and record["data"]["length"] == 16
    assert record["evaluation"]["quantities"]["SNR of reconstructions"]["unit"] == "dB"
    assert "<h2>Spectrograms</h2>" in (codes / "report.html").read_text()
    out = tmp_path / "x.wav"
    assert main(["sample", str(codes), "-n", "3", "--out", str(out)]) == 0
    assert f"wrote {out}" in capsys.readouterr().out
    x, rate = read_wav(out)
    pause = round(11_025 / 4)
    assert rate == 11_025 and x.shape == (2, 3 * 16 + 2 * pause)
    assert (x[:, 16 : 16 + pause] == 0).all()
    assert main(["evaluate", str(codes), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["quantities"].keys() >= {"ELBO"}


def test_codes_have_a_learned_prior(codes):
    trainer = load(codes / "model.pt")
    assert len(trainer.history) == 1 and trainer.step == 1
    assert trainer.model.codes == 4 and trainer.model.kind == "signal"
    # What is told is how the codes were learnt
    assert trainer.lr == 0.004 and "learning rate 0.004" in (codes / "report.html").read_text()
    torch.manual_seed(0)
    assert trainer.model.sample(3).shape == (3, 2, 16)
    nats = {k: v["mean"] for k, v in _quantities(codes).items()}
    assert nats["KL z1"] != pytest.approx(8 * torch.tensor(4.0).log().item(), abs=1e-3)


def test_what_codes_have_not_is_told(codes, tmp_path, capsys):
    assert main(["sample", str(codes), "--prior", "mixture"]) == 2
    assert "--prior: expected model for a VQ-VAE" in capsys.readouterr().err
    assert main(["evaluate", str(codes), "--importance-samples", "3"]) == 0
    output = capsys.readouterr()
    assert "note: a VQ-VAE has one draw" in output.err and "log p(x)" not in output.out
    assert main(["evaluate", str(codes)]) == 0
    assert "one draw" not in capsys.readouterr().err


def test_sound_has_the_rate_that_is_asked_for(codes, tmp_path):
    alone, out = tmp_path / "model.pt", tmp_path / "x.wav"
    alone.write_bytes((codes / "model.pt").read_bytes())
    assert main(["sample", str(alone), "-n", "1", "--rate", "4000", "--out", str(out)]) == 0
    assert read_wav(out)[1] == 4000


def _quantities(run):
    return json.loads((run / "run.json").read_text())["evaluation"]["quantities"]


def test_tones_are_drawn_without_codes(tmp_path):
    out = tmp_path / "run"
    argv = ["train", "--data", "tones", "--length", "8", "--latents", "2", "--rate", "4000"]
    assert main([*argv, "--batch-size", "900", "--out", str(out), *TINY]) == 0
    assert main(["sample", str(out), "-n", "2", "--draw", "--out", str(out / "x.wav")]) == 0
    assert read_wav(out / "x.wav")[1] == 4000


def test_signals_have_a_map_and_a_sigma_that_begins_below_them(tmp_path, capsys, no_report):
    torch.manual_seed(0)
    np.save(tmp_path / "x.npy", 3 * torch.randn(20, 2, 70).numpy())
    alone, out = str(tmp_path / "alone.npy"), tmp_path / "run"
    np.save(alone, torch.randn(20, 70).numpy())
    argv = ["train", "--data", str(tmp_path / "x.npy"), "--kind", "signal", "--epochs", "1"]
    argv += ["--importance-samples", "2", "--out", str(out)]
    assert main(argv) == 0
    told = "likelihood gaussian (learned-sigma) of standardised samples"
    assert told in capsys.readouterr().err
    model = load(out / "model.pt").model
    assert model.latent_shapes == {"z1": (4, 5)} and model.maps["channels"] == (16, 32, 32, 32)
    assert float(model.likelihood.scale) == pytest.approx(3, rel=0.1)
    # After one step, in which log sigma moves by 10 learning rates
    assert float(model.likelihood.noise.value) == pytest.approx(0.1, rel=0.03)
    others = {
        ("--guide", "flow"): ((20,), None),
        ("--hidden", "8"): ((20,), None),
        ("--latents", "3"): ((3,), None),
        ("--channels", "4,4"): ((4, 18), (4, 4)),
        ("--sigma", "0.5"): ((4, 5), (16, 32, 32, 32)),
        ("--sigma", "learned"): ((4, 5), (16, 32, 32, 32)),
        ("--standardize",): ((4, 5), (16, 32, 32, 32)),
        ("--no-standardize",): ((4, 5), (16, 32, 32, 32)),
        ("--data", alone): ((20,), None),
    }
    for options, (shape, channels) in others.items():
        assert main([*argv, *options, "--quiet"]) == 0
        model = load(out / "model.pt").model
        assert model.latent_shapes == {"z1": shape}
        assert channels in (None, model.maps.get("channels"))
        noise, scale = model.likelihood.noise, model.likelihood.scale
        if "0.5" in options:
            assert scale is None and float(noise.value) == 0.5
        elif "--no-standardize" in options:
            assert scale is None and float(noise.value) == pytest.approx(0.3, rel=0.1)
        else:
            assert float(noise.value) == pytest.approx(0.1, rel=0.03)
            assert scale.shape == ((2, 70) if "--standardize" in options else ())


def test_videos_move(tmp_path, capsys):
    out = tmp_path / "run"
    argv = ["train", "--data", "bouncing", "--length", "4", "--size", "8", "--codes", "4"]
    assert main([*argv, "--batch-size", "900", "--out", str(out), *TINY]) == 0
    assert main(["sample", str(out), "-n", "2", "--out", str(out / "x.gif")]) == 0
    with Image.open(out / "x.gif") as picture:
        assert picture.n_frames == 4
    assert main(["sample", str(out), "-n", "2", "--out", str(out / "x.wav")]) == 2
    assert "expected a model of signals for" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ((), "--length: expected clips of one length, got 16 samples in"),
        (("--length", "18"), "--length: expected clips of 18, got 16 samples in"),
        (("--length", "16", "--rate", "8000"), "--rate: expected 8000 samples per second, got"),
        (("--length", "16", "--channels", "2,2,2,2,2"), "--channels: expected one for each time"),
        (("--length", "16", "--kind", "image", "--rate", "8000"), "--rate: expected"),
        (("--length", "16", "--codes", "4", "--latents", "2"), "--codes: expected no --latents"),
        (("--length", "16", "--codes", "4", "--beta", "2"), "--codes: expected no --latents"),
        (("--length", "16", "--codes", "4", "--warm-up", "2"), "--codes: expected no --latents"),
        (
            ("--length", "16", "--codes", "4", "--hidden", "8", "--channels", "2"),
            "--channels: expected",
        ),
    ],
)
def test_bad_input_is_refused_before_training(sounds, tmp_path, capsys, options, message):
    out = tmp_path / "run"
    assert main(["train", "--data", str(sounds), *options, "--out", str(out)]) == 2
    assert message in capsys.readouterr().err and not out.exists()
