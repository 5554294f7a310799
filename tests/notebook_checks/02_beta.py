"""What notebook 02 has to find."""

from itertools import pairwise


def check_three_routes_one_number(by_hand, by_handler, by_terms):
    assert abs(by_hand - by_handler) < 1e-3 and abs(by_hand - by_terms) < 1e-3


def check_the_curve_of_rate_and_distortion(rate, distortion, used, dci):
    assert all(a > b + 0.3 for a, b in pairwise(rate)), rate
    assert all(a < b for a, b in pairwise(distortion)), distortion
    bound = [-a - b for a, b in zip(rate, distortion, strict=True)]
    assert bound[1] == max(bound), bound
    assert used[-1] < used[0], used
    assert max(dci[1:]) > 1.2 * dci[0], dci


def check_which_factors_are_known(scores):
    for score in scores.values():
        known = dict(zip(score.factor_names, score.per_factor["DCI informativeness"], strict=True))
        assert min(known["x"], known["y"], known["scale"]) > known["shape"] + 0.2, known
        assert min(known["x"], known["y"]) > 0.8 and known["rotation"] < 0.3, known


def check_warm_up_keeps_the_code(ends, warmed):
    assert ends["warm-up"][0] > ends["constant"][0] + 0.2, ends
    assert ends["warm-up"][1] > ends["constant"][1], ends
