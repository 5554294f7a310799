"""A parameter trains where nobody holds it, in whatever order the holders come and go."""

import copy
import gc
import itertools
import pickle

import pytest
import torch
from torch import nn

from pyro_vae import Trainer, callbacks, codebooks, guides, likelihoods, load, models
from pyro_vae.programs.freezing import Hold, _holders, is_free

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
IMAGES = torch.randn(20, 1, 8, 8, generator=torch.Generator().manual_seed(2))


def fit(t, x=X, **options):
    return t.fit(x, **{"epochs": 1, "batch_size": 20, "progress": False, **options})


def vae(sigma="learned"):
    torch.manual_seed(0)
    return models.VAE((6,), 2, likelihood=likelihoods.Gaussian(sigma), hidden=(5,))


@pytest.mark.parametrize("order", list(itertools.permutations(range(3))))
def test_the_last_release_lets_a_parameter_train(order):
    weight = nn.Parameter(torch.ones(2))
    holds = [Hold([weight]) for _ in range(3)]
    for count, i in enumerate(order):
        assert not weight.requires_grad
        holds[i].release()
        holds[i].release()
        assert weight.requires_grad == (count == 2)


def test_what_a_person_froze_is_not_free_and_what_is_held_is():
    free, frozen = nn.Parameter(torch.ones(2)), nn.Parameter(torch.ones(2), requires_grad=False)
    hold = Hold([free])
    assert is_free(free) and not is_free(frozen)
    hold.release()
    assert is_free(free) and not frozen.requires_grad


def test_holders_keep_no_parameter_alive():
    gc.collect()
    before = len(_holders)
    hold = Hold([nn.Parameter(torch.ones(2))])
    assert len(_holders) == before + 1
    del hold
    gc.collect()
    assert len(_holders) == before


@pytest.mark.parametrize("way", [copy.deepcopy, lambda pair: pickle.loads(pickle.dumps(pair))])
def test_a_copy_holds_the_copies(way):
    weight = nn.Parameter(torch.ones(2))
    copied, hold = way((weight, Hold([weight])))
    assert is_free(copied) and not copied.requires_grad
    hold.release()
    assert copied.requires_grad and not weight.requires_grad


def trainable(module):
    return {name for name, p in module.named_parameters() if p.requires_grad}


def test_ending_a_phase_leaves_a_model_that_a_swap_froze():
    model = vae()
    trainer = fit(Trainer(model, guides.BottomUp(model), seed=0))
    phase = model.predict_sigma(freeze=[model])
    head, every = trainable(model), {name for name, _ in model.named_parameters()}
    trainer.swap_guide(guides.BottomUp(model), freeze_model=True)
    assert trainable(model) == set()
    phase.unfreeze()
    assert trainable(model) == set()
    fit(trainer)
    trainer.swap_guide(guides.BottomUp(model))
    assert trainable(model) == every > head
    # The other way round
    phase = models.sigma.Phase(model, tuple(model.decoder.parameters()))
    trainer.swap_guide(guides.BottomUp(model), freeze_model=True)
    trainer.swap_guide(guides.BottomUp(model))
    assert trainable(model) == {n for n in every if not n.startswith("decoder")}
    phase.unfreeze()
    assert trainable(model) == every


def test_a_callback_that_lets_sigma_rest_leaves_a_frozen_model():
    model = vae()
    trainer = Trainer(model, guides.BottomUp(model), seed=0)
    trainer.swap_guide(guides.BottomUp(model), freeze_model=True)
    fit(trainer, callbacks=[callbacks.UpdateSigma(X)])
    assert trainable(model) == set()
    trainer.swap_guide(guides.BottomUp(model))
    assert "likelihood.noise.raw" in trainable(model)
    fit(trainer, callbacks=[callbacks.UpdateSigma(X)])
    assert "likelihood.noise.raw" in trainable(model)


def vq():
    torch.manual_seed(0)
    model = models.VQVAE(
        (1, 8, 8),
        codebook=codebooks.Gradient(8, 4),
        likelihood=likelihoods.Gaussian(),
        channels=(4, 5),
        blocks=1,
    )
    return Trainer(model, guides.NearestCode(model), seed=0)


def test_keeping_the_best_epoch_leaves_the_codes_of_a_frozen_model():
    trainer = fit(vq(), IMAGES)
    model = trainer.model
    trainer.swap_guide(guides.NearestCode(model), freeze_model=True)
    before = model.codebook.weight.clone()
    for _ in range(2):
        fit(trainer, IMAGES, validation=IMAGES, callbacks=[callbacks.KeepBest()])
        assert trainable(model) == set()
    assert torch.equal(model.codebook.weight, before)
    trainer.swap_guide(guides.NearestCode(model))
    assert "codebook.weight" in trainable(model)


def test_a_frozen_codebook_stays_frozen_after_a_swap_that_froze_the_model():
    trainer = vq()
    codebook = trainer.model.codebook.freeze()
    trainer.swap_guide(guides.NearestCode(trainer.model), freeze_model=True)
    trainer.swap_guide(guides.NearestCode(trainer.model))
    assert not codebook.weight.requires_grad
    codebook.freeze(False)
    assert codebook.weight.requires_grad


@pytest.mark.parametrize("way", ["file", "copy"])
def test_a_frozen_model_from_a_file_or_a_copy_is_thawed_by_the_next_swap(way, tmp_path):
    trainer = fit(vq(), IMAGES)
    trainer.swap_guide(guides.NearestCode(trainer.model), freeze_model=True)
    if way == "file":
        trainer.save(tmp_path / "trainer.pt")
        again = load(tmp_path / "trainer.pt")
    else:
        again = copy.deepcopy(trainer)
    fit(again, IMAGES, validation=IMAGES, callbacks=[callbacks.KeepBest()])
    assert trainable(again.model) == set()
    again.swap_guide(guides.NearestCode(again.model))
    assert "codebook.weight" in trainable(again.model)
    assert trainable(trainer.model) == set()
