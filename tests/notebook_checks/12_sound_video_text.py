"""What notebook 12 has to find."""

import tempfile

import torch

from pyro_vae import data, infer, priors


def overlap(seen, true):
    """Intersection over union of lit pixels, the mean over videos."""
    seen, true = (seen > 0.5).flatten(1), (true > 0.5).flatten(1)
    return ((seen & true).sum(1) / (seen | true).sum(1)).mean()


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
    assert overlap(again, videos.test.x) > 0.75  # 0.6 where they are blurred


def check_the_first_frames_stay(clip, eye, film, seen):
    grid = eye.codes(seen)
    given = torch.zeros(clip.grid_shape, dtype=torch.bool)
    given[: len(given) // 2] = True
    assert torch.equal(film.complete(grid, given)[:, given], grid[:, given])


def check_sprites_go_on(clip, eye, film, videos):
    torch.manual_seed(0)
    x = videos.test.x
    late = slice(x.shape[2] // 2, None)
    drawn = priors.complete(clip, eye, film, x)[:, 0, :, late]
    lit = (drawn > 0.5).sum() / (x[:, :, late] > 0.5).sum()
    assert 0.5 < lit < 1.5
    strangers = overlap(x[:, :, late].roll(1, 0), x[:, :, late])
    assert overlap(drawn, x[:, :, late]) > 2 * strangers


def check_sentences(likelihood, between, lines, result, words):
    assert {*" ".join(likelihood.text(between)).split()} <= {*" ".join(lines).split()}
    assert result.to_dict()["perplexity"]["mean"] < words / 2
