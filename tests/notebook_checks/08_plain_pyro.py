"""What notebook 08 has to find."""

import torch


def check_many_routes_one_number(by_trace, stock, terms, by_renyi, by_library):
    assert abs(by_trace - stock) < 1e-3 and abs(by_trace - float(terms.elbo.mean())) < 1e-3
    assert abs(by_renyi - by_library) < 0.1
    assert by_library > by_trace, "the importance-weighted bound is the tighter one"


def check_handlers_by_hand(objective, small, by_hand):
    exact = -objective / len(small.test)
    assert abs(exact - float(by_hand.mean())) < 1e-3, "two routes, one objective"


def check_missing_pixels(imputed, impute, digits, test, seen):
    def error_of(guess):
        return float((guess - test.x)[:, ~seen].square().mean())

    errors = {"mean": error_of(digits.train.x.mean(0)), "imputed": error_of(imputed)}
    assert errors["imputed"] < 0.95 * errors["mean"], errors
    torch.manual_seed(0)
    other = impute(torch.where(seen, test.x, 1 - test.x), seen)
    assert torch.equal(other, imputed), "what is missing has no influence"


def check_outliers(found):
    assert found.auroc["inverted"]["-log p(x)"][0] > 0.9
    assert found.auroc["3% of pixels flipped"]["-log p(x)"][0] > 0.6
    kl = found.auroc["3% of pixels flipped"]["KL"][0]
    assert kl < 0.5, "strange, and yet with a code like any other's"
