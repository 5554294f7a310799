"""Threads that run programs at once have the results of one thread after the other."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor

import pyro
import pyro.distributions as dist
import pytest
import torch

from pyro_vae import Trainer, guides, infer, likelihoods, models
from pyro_vae.ground.turns import Turn, turn

X = torch.randn(60, 6, generator=torch.Generator().manual_seed(0))


def pair(seed=0):
    torch.manual_seed(seed)
    vae = models.VAE((6,), (3, 2), likelihood=likelihoods.Gaussian(), hidden=(8,))
    return vae, guides.BottomUp(vae)


def fitted(seed, epochs=8, **fit):
    trainer = Trainer(*pair(seed), seed=seed)
    return trainer.fit(X, epochs=epochs, batch_size=10, progress=False, **fit)


def rows(trainer):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in trainer.history]


class Visited:
    """Starts when training has begun, and keeps training until the visitors are done."""

    def __init__(self, visit):
        self.visit, self.results, self.pool = visit, None, ThreadPoolExecutor(1)

    def on_step_end(self, **kwargs):
        if self.results is None:
            self.results = self.pool.submit(self.visit)

    def on_epoch_end(self, trainer, **kwargs):
        if self.results.done():
            trainer.stop()


def test_a_model_is_sampled_while_another_is_trained():
    """Requests are served before the run ends, and draw from the global stream; training does not.

    Without turns this ended with "Multiple sample sites named 'data'".
    """
    served, _ = pair(7)
    torch.manual_seed(5)
    expected = [served.sample(4) for _ in range(30)]
    visited = Visited(lambda: [served.sample(4) for _ in range(30)])
    trainer = Trainer(*pair(), seed=0)
    torch.manual_seed(5)
    trainer.fit(X, epochs=500, batch_size=10, progress=False, callbacks=[visited])
    assert all(map(torch.equal, visited.results.result(), expected))
    assert len(trainer.history) < 500
    assert rows(trainer) == rows(fitted(0, len(trainer.history)))


def test_trainers_in_threads_train_as_one_after_the_other():
    alone = [rows(fitted(seed)) for seed in range(3)]
    trainers = [Trainer(*pair(seed), seed=seed) for seed in range(3)]
    state = torch.get_rng_state()
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda t: t.fit(X, epochs=8, batch_size=10, progress=False), trainers))
    assert [rows(trainer) for trainer in trainers] == alone
    assert torch.equal(torch.get_rng_state(), state)


def test_requests_from_many_threads_are_served():
    """All of these leave the random stream where it was."""
    vae, guide = fitted(0, 2).modules()
    requests = [
        lambda: infer.elbo_terms(vae, guide, X, samples=2).elbo,
        lambda: infer.log_likelihood(vae, guide, X[:5], importance_samples=10),
        lambda: infer.reconstruct(vae, guide, X[:5]),
        lambda: vae.decode({"z1": X[:, :3]}).mean,
    ] * 10
    expected = [request() for request in requests]
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda request: request(), requests))
    assert all(map(torch.equal, found, expected))


def test_scripts_of_svi_in_threads():
    def train(seed):
        torch.manual_seed(seed)
        svi = infer.SVI(*pair(seed))
        for _ in range(20):
            svi.step(X)
        return svi

    with ThreadPoolExecutor(3) as pool:
        for svi in pool.map(train, range(3)):
            assert all(p.isfinite().all() for p in svi.parameters())


def test_one_trainer_in_two_threads_is_one_clear_error():
    trainer = Trainer(*pair(), seed=0)
    visited = Visited(lambda: trainer.fit(X, epochs=1, progress=False))
    trainer.fit(X, epochs=500, batch_size=10, progress=False, callbacks=[visited])
    with pytest.raises(RuntimeError, match="fit: call it between calls of fit"):
        visited.results.result()


def test_the_turn_goes_round_in_the_order_of_asking_and_its_holder_has_it_again():
    lock, order, threads = Turn(), [], []

    def work(name):
        with lock, lock:
            order.append(name)

    with lock:
        for name in "abc":
            threads.append(threading.Thread(target=work, args=(name,)))
            threads[-1].start()
            while len(lock.waiting) < len(threads):
                pass
        assert order == [] and lock.waiting
        lock.give_way()
        order.append("d")
    for thread in threads:
        thread.join()
    assert order == ["a", "b", "c", "d"] and not lock.waiting


def test_an_error_within_a_turn_ends_it():
    with pytest.raises(ZeroDivisionError), turn, turn:
        raise ZeroDivisionError
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: pair()[0].sample(1).shape).result(timeout=60) == (1, 6)


def test_programs_of_ones_own_run_in_turns():
    """As documented: Pyro knows nothing of it."""

    def model():
        with turn, pyro.poutine.trace() as captured:
            return [pyro.sample(f"z{i}", dist.Normal(0.0, 1.0)) for i in range(50)], captured

    with ThreadPoolExecutor(4) as pool:
        for values, captured in pool.map(lambda _: model(), range(40)):
            assert len(captured.trace.nodes) == len(values) == 50


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
def test_a_child_does_not_wait_for_threads_that_it_has_not():
    taken, done = threading.Event(), threading.Event()

    def hold():
        with turn:
            taken.set()
            done.wait()

    thread = threading.Thread(target=hold)
    thread.start()
    taken.wait()
    child = os.fork()
    if child == 0:
        with turn:
            os._exit(7)
    _, status = os.waitpid(child, 0)
    done.set()
    thread.join()
    assert os.waitstatus_to_exitcode(status) == 7
