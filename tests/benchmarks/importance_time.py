"""Time of log p(x) by importance sampling: this library and a hand-written loop.

Run: python tests/benchmarks/importance_time.py [--data 1000] [--samples 5000] [--threads 4]
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable

import timing
import torch
from systems import Pair, dense, on, one_layer
from torch import Tensor
from torch.nn import functional as F

from pyro_vae import infer


def pair(device: str) -> Pair:
    """A guide that is wider than the posterior, so that the estimates' errors can be trusted."""
    vae, guide = one_layer()
    torch.nn.init.constant_(guide.conditionals["z1"].raw_scale.bias, 0.7)
    return on((vae, guide), device)


def hand_written(x: Tensor, samples: int, rows: int, device: str) -> Callable[[], Tensor]:
    """Encode once, decode ``rows`` rows at once, the same networks."""
    vae, guide = pair(device)
    q = guide.conditionals["z1"]
    encoder, decoder = dense(q.network), dense(vae.decoder)

    @torch.inference_mode()
    def run() -> Tensor:
        h = encoder(x)
        loc, scale = q.loc(h), F.softplus(q.raw_scale(h)) + q.min_scale
        weights, per_draw = [], max(1, rows // len(x))
        for start in range(0, samples, per_draw):
            k = min(per_draw, samples - start)
            noise = torch.randn(k, *loc.shape, device=device)
            z = loc + scale * noise
            logits, target = decoder(z.flatten(0, 1)), x.repeat(k, 1)
            loss = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            log_ratio = 0.5 * (noise.square() - z.square()) + scale.log()
            weights.append(log_ratio.sum(-1) - loss.sum(-1).unflatten(0, (k, -1)))
        return torch.cat(weights).logsumexp(0) - math.log(samples)

    return run


def main(argv: list[str] | None = None) -> None:
    """Check that both find the same within their errors, then time them."""
    parser = timing.arguments(__doc__.splitlines()[0], rounds=3)
    parser.add_argument("--data", type=int, default=1000)
    parser.add_argument("--samples", type=int, default=5000)
    options = parser.parse_args(argv)
    torch.set_num_threads(options.threads)
    torch.manual_seed(1)
    x = (torch.rand(options.data, 784) < 0.3).float().to(options.device)
    vae, guide = pair(options.device)

    def ours(rows: int | None = None) -> Tensor:
        return infer.log_likelihood(
            vae, guide, x, importance_samples=options.samples, chunk_size=rows
        )

    rows = (1000, 10000) if options.device == "cpu" else (1000, 10000, 100000)
    by_hand = {
        f"hand-written, {n} rows": hand_written(x, options.samples, n, options.device)
        for n in rows
    }
    runs = {**by_hand, "pyro_vae": ours}
    if options.device != "cpu":
        runs[f"pyro_vae, {rows[-1]} rows"] = functools.partial(ours, rows[-1])
    estimate = infer.importance(vae, guide, x, samples=options.samples)
    error = estimate.standard_error.square().sum().sqrt().item() / len(x)
    for run in runs.values():
        torch.testing.assert_close(
            run().mean(), estimate.log_likelihood.mean(), rtol=0, atol=4 * math.sqrt(2) * error
        )
    times = timing.alternating(runs, options.steps, options.device)
    title = f"log p(x) of {options.data} data with {options.samples} importance samples"
    timing.report(title, timing.compared(times, list(by_hand)), options)


if __name__ == "__main__":
    main()
