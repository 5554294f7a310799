"""What notebook 12 has to find."""

import tempfile

import torch

from pyro_vae import data, infer


def check_tones_are_heard(ratios):
    assert min(found.mean[0] for found in ratios.values()) > 3


def check_a_file_holds_the_tone(x, tones, completed):
    assert completed.shape == x.shape
    with tempfile.TemporaryDirectory() as folder:
        data.write_wav(f"{folder}/x.wav", x[0], tones.rate)
        written, rate = data.read_wav(f"{folder}/x.wav")
    assert rate == tones.rate and torch.allclose(written, x[0], atol=1 / 2**16)


def check_the_first_codes_of_a_tone_stay(nearest, prior, x):
    codes = nearest.codes(x)
    mask = torch.arange(codes.shape[1]) < codes.shape[1] // 2
    assert torch.equal(prior.complete(codes, mask)[:, mask], codes[:, mask])


def check_sprites_are_seen(clip, eye, videos):
    again = infer.reconstruct(clip, eye, videos.test.x)
    assert ((again > 0.5) == (videos.test.x > 0.5)).double().mean() > 0.95


def check_the_first_frames_stay(clip, eye, film, seen):
    grid = eye.codes(seen)
    given = torch.zeros(clip.grid_shape, dtype=torch.bool)
    given[: len(given) // 2] = True
    assert torch.equal(film.complete(grid, given)[:, given], grid[:, given])


def check_sentences(likelihood, between, lines, result, words):
    assert {*" ".join(likelihood.text(between)).split()} <= {*" ".join(lines).split()}
    assert result.to_dict()["perplexity"]["mean"] < words / 2
