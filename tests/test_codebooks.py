import json
import math
import warnings

import pytest
import torch
from torch import nn

from pyro_vae import Trainer, codebooks, diagnostics, guides, infer, likelihoods, load, models
from pyro_vae.ground.recorded import decode, encode


def brute_force(z, codes):
    """Nearest codes, every squared difference summed in double precision."""
    z, codes = z.double(), codes.double()
    return (z.unsqueeze(-2) - codes).square().sum(-1).argmin(-1)


@pytest.mark.parametrize("offset", [0, 10, 1000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_code_is_that_of_brute_force_far_from_the_origin_too(offset, dtype):
    codebook = codebooks.Gradient(64, 8).to(dtype)
    codes = torch.randn(64, 8, dtype=dtype) + offset
    codebook.weight.data.copy_(codes)
    z = torch.randn(500, 8, dtype=dtype) + offset
    expected = brute_force(z, codes)
    assert torch.equal(codebook.nearest(z), expected)
    assert torch.equal(codebook.nearest(z.reshape(5, 10, 10, 8)), expected.reshape(5, 10, 10))
    if offset == 1000 and dtype == torch.float32:  # what the centring is for
        expanded = (codes.square().sum(-1) - 2 * z @ codes.T).argmin(-1)
        assert (expanded != expected).float().mean() > 0.1


def batches(steps, n=40, dim=3):
    return [torch.randn(n, dim) + 0.1 * t for t in range(steps)]


def test_moving_averages_follow_the_written_formula():
    g, eps, k = 0.9, 1e-3, 6
    codebook = codebooks.MovingAverage(k, 3, decay=g, eps=eps, revive=0)
    e = codebook.weight.double()
    counts, sums = [1.0] * k, [row.clone() for row in e]
    for z in batches(7):
        index = brute_force(z, e)
        assert codebook.learn(z, codebook.nearest(z)) is None
        for i in range(k):
            mine = z[index == i].double()
            counts[i] = g * counts[i] + (1 - g) * len(mine)
            sums[i] = g * sums[i] + (1 - g) * mine.sum(0)
        total = sum(counts)
        smoothed = [(c + eps) / (total + k * eps) * total for c in counts]
        e = torch.stack([m / c for m, c in zip(sums, smoothed, strict=True)])
        torch.testing.assert_close(codebook.weight.double(), e, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(codebook.counts, torch.tensor(counts), atol=1e-5, rtol=1e-5)


def test_a_revived_code_is_an_output_of_the_batch_and_survives_the_next_update():
    codebook = codebooks.MovingAverage(3, 2, decay=0.9, revive=0.5)
    with torch.no_grad():
        codebook.weight.copy_(torch.tensor([[0.0, 0.0], [1.0, 1.0], [900.0, 900.0]]))
        codebook.sums.copy_(codebook.weight)
    z = torch.rand(30, 2)
    codebook.learn(z, codebook.nearest(z))
    revived = codebook.weight[2].clone()
    assert (z == revived).all(-1).any()
    # Half of an even share of ten: below it a code is dead
    assert codebook.counts.tolist() == pytest.approx([5.0, 5.0, 5.0])
    torch.testing.assert_close(codebook.sums[2], 5 * revived)
    again = torch.rand(30, 2)
    index = codebook.nearest(again)
    assert (index == 2).any()
    # Enough hits for all of them, so that nothing is revived once more
    index = torch.arange(30) % 3
    again[2::3] = revived + 0.01
    codebook.learn(again, index)
    torch.testing.assert_close(codebook.weight[2], revived, atol=0.02, rtol=0)
    assert codebook.counts[2] >= 5


@pytest.mark.parametrize("outputs", [32, 256])
@pytest.mark.parametrize("seed", range(3))
def test_a_code_of_rare_data_stays(outputs, seed):
    """96 % of the outputs at 0, 4 % at 5: 300 steps from codes that are there already."""
    torch.manual_seed(seed)
    codebook = codebooks.MovingAverage(4, 1)
    codebook.initialized = True
    first = torch.tensor([[0.0], [0.0], [0.0], [5.0]])
    codebook.weight.copy_(first)
    codebook.sums.copy_(first)
    for _ in range(300):
        z = torch.where(torch.rand(outputs, 1) < 0.04, 5.0, 0.0)
        codebook.learn(z, codebook.nearest(z))
    assert ((codebook.weight - 5).abs() < 0.5).any()
    assert (codebook.weight.abs() < 0.5).any()


@pytest.mark.parametrize(("outputs", "batches"), [(30, 4), (5, 6)])
def test_a_code_is_revived_after_as_many_batches_without_use(outputs, batches):
    """At least four, and at least ten outputs for each of the three codes."""
    codebook = codebooks.MovingAverage(3, 1, revive=codebooks.Unused(4), initializer=None)
    codebook.weight.copy_(torch.tensor([[0.0], [1.0], [900.0]]))
    codebook.sums.copy_(codebook.weight)
    # A hit in the second batch starts the count again
    for batch, hit in enumerate([False, True] + [False] * batches):
        z = torch.rand(outputs, 1)
        z[0] = 900.0 if hit else z[0]
        codebook.learn(z, codebook.nearest(z))
        assert (codebook.weight[2] > 800) == (batch < batches + 1)
    assert (z == codebook.weight[2]).any()
    assert (codebook.counts[2], codebook.idle[2]) == (1, 0)
    torch.testing.assert_close(codebook.sums[2], codebook.weight[2])


def test_files_without_these_arguments_mean_what_0_1_did():
    old = {"$class": "pyro_vae.codebooks.MovingAverage", "$id": 0, "arguments": {"codes": 4}}
    old["arguments"]["code_dim"] = 2
    found = decode(old)
    assert (found.revive, found.initializer, found.initialized) == (0.5, None, True)
    assert decode({**old, "$class": "pyro_vae.codebooks.Gradient"}).initializer is None
    event = {"event_shape": [1, 8, 8], "likelihood": likelihoods.Gaussian(), "code_dim": 3}
    codebook = models.VQVAE(**models.VQVAE.of_file(event)).codebook
    assert (codebook.codes, codebook.code_dim, codebook.revive) == (512, 3, 0.5)
    # What is written now is named, defaults too
    for new in (
        codebooks.MovingAverage(4, 2),
        models.VQVAE((5,), 4, 2, likelihood=likelihoods.Gaussian()),
    ):
        again = decode(json.loads(json.dumps(encode(new, "new"))))
        again = getattr(again, "codebook", again)
        assert again.revive.batches == 10 and again.initializer.iterations == 10
        assert not again.initialized
    # Tensors of 0.1 in a codebook of today
    state = codebooks.MovingAverage(4, 2).state_dict()
    del state["idle"]
    codebooks.MovingAverage(4, 2).load_state_dict(state)


def test_without_revival_a_dead_code_stays_dead():
    codebook = codebooks.MovingAverage(2, 1, revive=0)
    codebook.weight.copy_(torch.tensor([[0.0], [900.0]]))
    codebook.sums.copy_(codebook.weight)
    for z in batches(50, dim=1):
        codebook.learn(z, codebook.nearest(z))
    assert codebook.weight[1] > 800


def test_codebook_loss_has_the_gradient_written_by_hand():
    codebook = codebooks.Gradient(4, 3)
    z = torch.randn(5, 2, 3, requires_grad=True)
    index = codebook.nearest(z)
    cost = codebook.learn(z, index)
    difference = z.detach() - codebook.weight.detach()[index]
    torch.testing.assert_close(cost, difference.square().sum(-1))
    cost.sum().backward()
    expected = torch.zeros(4, 3).index_add(0, index.flatten(), -2 * difference.flatten(0, 1))
    torch.testing.assert_close(codebook.weight.grad, expected)
    assert z.grad is None


MAKERS = [codebooks.Gradient, codebooks.MovingAverage]


@pytest.mark.parametrize("make", MAKERS)
def test_half_precision_leaves_the_codes_in_single(make):
    codebook = make(16, 4)
    before = codebook.weight.clone()
    codebook.half()
    assert codebook.weight.dtype == torch.float32 and torch.equal(codebook.weight, before)
    z = (torch.randn(50, 4) / 16).half()
    index = codebook.nearest(z)
    assert torch.equal(index, brute_force(z, before))
    cost = codebook.learn(z, index)
    assert cost is None or cost.dtype == torch.float32
    assert {b.dtype for b in (*codebook.parameters(), *codebook.buffers())} == {torch.float32}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        one_hot = torch.eye(16)
        assert torch.equal(codebook(one_hot), codebook.weight)
        z = torch.randn(50, 4) / 16
        assert torch.equal(codebook.nearest(z), brute_force(z, codebook.weight))
    assert make(16, 4).double().weight.dtype == torch.float64


@pytest.mark.parametrize("make", MAKERS)
def test_a_frozen_codebook_stays(make):
    codebook = make(8, 3).freeze()
    before = {k: v.clone() for k, v in codebook.state_dict().items()}
    z = torch.randn(20, 3)
    assert codebook.learn(z, codebook.nearest(z)) is None
    assert all(torch.equal(before[k], v) for k, v in codebook.state_dict().items())
    assert not codebook.weight.requires_grad
    twin = make(8, 3)
    twin.load_state_dict(codebook.state_dict())
    assert twin.frozen and not twin.weight.requires_grad
    assert codebook.freeze(False).weight.requires_grad is (make is codebooks.Gradient)
    codebook.learn(z, codebook.nearest(z))


@pytest.mark.parametrize("make", MAKERS)
def test_k_means_finds_the_clusters_of_the_first_batch_once(make):
    centres = 100 * torch.eye(4) + 1000
    z = (centres.repeat(25, 1) + 0.1 * torch.randn(100, 4)).reshape(10, 10, 4)
    codebook = make(4, 4, initializer=codebooks.KMeans())
    for seed in range(20):  # random starts find all four clusters now and then
        torch.manual_seed(seed)
        codebook.initialized = False
        codebook.initialize(z)
        order = codebook.nearest(centres)
        if len(order.unique()) == 4:
            break
    flat = z.reshape(-1, 4)
    means = torch.stack([flat[i::4].mean(0) for i in range(4)])
    torch.testing.assert_close(codebook.weight.detach()[order], means, atol=1e-2, rtol=0)
    if make is codebooks.MovingAverage:
        assert codebook.counts.tolist() == [25.0] * 4
        torch.testing.assert_close(codebook.sums, codebook.weight * 25)
        # So the first update does not throw the codes away
        codebook.learn(z, codebook.nearest(z))
        torch.testing.assert_close(codebook.weight[order], means, atol=1e-2, rtol=0)
    before = codebook.weight.detach().clone()
    codebook.initialize(z + 5)
    assert torch.equal(codebook.weight, before)


@pytest.mark.parametrize("make", MAKERS)
def test_a_codebook_saved_before_its_first_batch_still_waits_for_it(make, tmp_path):
    fresh, twin = (make(4, 2, initializer=codebooks.KMeans()) for _ in range(2))
    twin.load_state_dict(fresh.state_dict())
    assert not twin.initialized
    z = torch.randn(4, 2)
    twin.initialize(z)
    torch.testing.assert_close(twin.weight.detach()[twin.nearest(z)], z)
    again = make(4, 2, initializer=codebooks.KMeans())
    again.load_state_dict(twin.state_dict())
    assert again.initialized
    # The same through a file
    vqvae = models.VQVAE((6,), likelihood=likelihoods.Gaussian(), codebook=fresh, hidden=(8,))
    trainer = Trainer(vqvae, guides.NearestCode(vqvae), seed=0)
    trainer.save(tmp_path / "new.pt")
    loaded, x = load(tmp_path / "new.pt"), torch.randn(40, 6)
    assert not loaded.model.codebook.initialized
    for t in (trainer, loaded):
        t.fit(x, epochs=2, progress=False)
    assert torch.equal(loaded.model.codebook.weight, vqvae.codebook.weight)


def test_k_means_counts_stand_for_all_vectors_though_it_uses_256_per_code():
    codebook = codebooks.MovingAverage(2, 1, initializer=codebooks.KMeans())
    z = torch.cat([torch.zeros(1500, 1), torch.full((548, 1), 9.0)])
    codebook.initialize(z)
    assert float(codebook.counts.sum()) == pytest.approx(2048)
    order = codebook.nearest(torch.tensor([[0.0], [9.0]]))
    # Of 512 out of 2048 without replacement, to four standard errors
    share = 1500 / 2048
    error = (share * (1 - share) / 512 * (1 - 512 / 2048)) ** 0.5
    assert float(codebook.counts[order[0]]) / 2048 == pytest.approx(share, abs=4 * error)
    torch.testing.assert_close(codebook.sums, codebook.weight * codebook.counts[:, None])


def test_k_means_with_fewer_points_than_codes_takes_the_points():
    z = torch.randn(3, 2)
    centres, counts = codebooks.KMeans()(z, 7)
    assert all((z == c).all(-1).any() for c in centres) and len(centres.unique(dim=0)) == 3
    assert float(counts.sum()) == pytest.approx(3)


def test_first_codes_are_never_recorded_in_a_graph():
    codebook = codebooks.MovingAverage(4, 2, initializer=codebooks.KMeans())
    vqvae = models.VQVAE((6,), likelihood=likelihoods.Gaussian(), codebook=codebook, hidden=(8,))
    guide, x = guides.NearestCode(vqvae), torch.randn(20, 6)
    graph = infer.Graph(infer.TraceELBO())
    with pytest.warns(UserWarning, match="runs eagerly.*first codes"):
        graph(vqvae, guide, x)
    assert codebook.initialized
    z_e = guide.encoder(x).detach()
    nearest = (z_e.unsqueeze(-2) - codebook.weight).square().sum(-1).min(-1).values
    assert nearest.mean() < z_e.var()
    before = codebook.weight.clone()
    graph(vqvae, guide, x + 1)  # recorded now
    assert not torch.equal(codebook.weight, before)
    assert (codebook.weight - before).abs().max() < 1


def test_uniform_codes():
    p = codebooks.UniformCodes((2, 3), 5)()
    z = p.sample((4,))
    assert z.shape == (4, 2, 3, 5) and torch.equal(z.sum(-1), torch.ones(4, 2, 3))
    assert p.log_prob(z).tolist() == pytest.approx([-6 * math.log(5)] * 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"codes": 0}, "codes: expected a whole number of at least 1"),
        ({"code_dim": 2.0}, "code_dim: expected a whole number of at least 1"),
        ({"decay": 1.0}, "decay: expected"),
        ({"decay": -0.1}, "decay: expected"),
        ({"eps": 0.0}, "eps: expected"),
        ({"eps": math.inf}, "eps: expected"),
        ({"revive": 1.0}, "revive: expected codebooks.Unused"),
        ({"revive": -0.1}, "revive: expected"),
    ],
)
def test_bad_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        codebooks.MovingAverage(**{"codes": 4, "code_dim": 2, **arguments})
    with pytest.raises(TypeError, match="initializer: expected an object such as"):
        codebooks.Gradient(4, 2, initializer="kmeans")


@pytest.mark.parametrize("batches", [0, 1.5, True])
def test_bad_numbers_of_batches(batches):
    with pytest.raises(ValueError, match="batches: expected a whole number of at least 1"):
        codebooks.Unused(batches)


def test_vectors_of_one_hot_codes_and_of_mixtures():
    codebook = codebooks.Gradient(5, 3)
    index = torch.randint(5, (2, 4))
    one_hot = nn.functional.one_hot(index, 5).float()
    assert torch.equal(codebook(one_hot), codebook.vectors(index))
    middle = codebook(torch.full((5,), 0.2))
    torch.testing.assert_close(middle, codebook.weight.mean(0))


def clips(n=64):
    """Eight frames of 16 x 16 pixels: a square of 3 x 3 that moves down by one row a frame."""
    generator = torch.Generator().manual_seed(0)
    top = torch.randint(16 - 3 - 7, (n,), generator=generator)
    left = torch.randint(16 - 3 + 1, (n,), generator=generator)
    x = torch.zeros(n, 1, 8, 16, 16)
    for clip, row, column in zip(x, top, left, strict=True):
        for t in range(8):
            clip[0, t, row + t : row + t + 3, column : column + 3] = 1
    return x


class Encoder(nn.Sequential):
    def forward(self, x):
        return super().forward(x).movedim(1, -1)


class Decoder(nn.Sequential):
    def forward(self, z):
        return super().forward(z.movedim(-1, 1))


def video_pair(codebook, width=16):
    down = [nn.Conv3d(1, width, 4, 2, 1), nn.ReLU(), nn.Conv3d(width, width, 4, 2, 1), nn.ReLU()]
    up = [
        nn.ConvTranspose3d(width, width, 4, 2, 1),
        nn.ReLU(),
        nn.ConvTranspose3d(width, 1, 4, 2, 1),
    ]
    vqvae = models.VQVAE(
        (1, 8, 16, 16),
        likelihood=likelihoods.Bernoulli(),
        codebook=codebook,
        grid=(2, 4, 4),
        decoder=Decoder(nn.Conv3d(codebook.code_dim, width, 1), nn.ReLU(), *up),
    )
    encoder = Encoder(*down, nn.Conv3d(width, codebook.code_dim, 1))
    return vqvae, guides.NearestCode(vqvae, encoder=encoder)


@pytest.mark.parametrize("seed", range(4))
def test_a_codebook_does_not_collapse_on_mostly_blank_data(seed):
    """With the defaults of 0.1 one of the four seeds ends with 2 codes."""
    torch.manual_seed(seed)
    pair, x = video_pair(codebooks.MovingAverage(32, 16)), clips()
    Trainer(*pair, lr=3e-3, seed=seed).fit(x, epochs=10, batch_size=8, progress=False)
    assert diagnostics.codebook(*pair, x).used >= 8


def far_away():
    """A codebook of which one code is near the outputs, and none is moved."""
    codebook = codebooks.MovingAverage(32, 16, revive=0, initializer=None)
    codebook.weight[1:] += 1e3
    codebook.sums.copy_(codebook.weight)
    return codebook


@pytest.mark.parametrize(
    ("make", "told"), [(far_away, True), (lambda: codebooks.MovingAverage(32, 16), False)]
)
def test_few_used_codes_are_told_at_the_end_of_a_run(make, told):
    trainer = Trainer(*video_pair(make(), width=4), seed=0)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        trainer.fit(clips(16), epochs=3, batch_size=8, progress=False)
        assert not caught, "three epochs are too few to tell"
        trainer.fit(clips(16), epochs=1, batch_size=8, progress=False)
    messages = [str(w.message) for w in caught]
    assert len(messages) == told
    assert all("the codebook collapses: 1 of 32 codes" in m for m in messages)
