"""What notebook 11 has to find."""

import torch


def check_imputations(by_model, by_means, right, guessed, found, lost, x):
    assert by_model < 0.9 * by_means and right > guessed
    assert torch.equal(found.mean[~lost], x[~lost]), "what is seen stays"
    assert (found.mean[:, 0] == found.mean[:, 0].round()).all(), "a category is one of them"


def check_clusters(score):
    assert score > 0.5


def check_slips_are_found(auroc):
    assert auroc > 0.95
