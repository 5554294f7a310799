"""What trackers of experiments are told, how their runs end, and that a resumed run goes on."""

import json
import os
import signal
import sys

import pytest
import torch

from pyro_vae import Trainer, callbacks, guides, likelihoods, ranks
from pyro_vae.callbacks.tracking import settings
from pyro_vae.models import VAE

X = torch.randn(40, 6, generator=torch.Generator().manual_seed(1))
PACKAGES = {"MLflow": "mlflow", "WeightsAndBiases": "wandb", "Optuna": "optuna"}


def trainer(**options):
    torch.manual_seed(0)
    vae = VAE((6,), 2, likelihood=likelihoods.Gaussian(), hidden=(8,))
    return Trainer(vae, guides.BottomUp(vae), **{"seed": 0, "lr": 1e-2, **options})


def fit(t, epochs, *hung, **options):
    options = {"validation": X, **options}
    return t.fit(X, epochs=epochs, batch_size=16, callbacks=hung, progress=False, **options)


class Failing:
    """Raises after so many epochs of a run."""

    def __init__(self, epochs, error=ZeroDivisionError):
        self.left, self.error = epochs, error

    def on_epoch_end(self, **kwargs):
        self.left -= 1
        if not self.left:
            raise self.error

    def state_dict(self):
        return {}

    def load_state_dict(self, state):
        self.left = 100


class Told(callbacks.tracking.Tracker):
    """A tracker that keeps what it is told, under a name for each run."""

    runs = {}

    def _open(self, settings):
        if self.run is None:
            self.runs[name := f"run{len(self.runs)}"] = {"settings": settings, "rows": {}}
            self.run = name
        self.runs[self.run]["ends"] = None
        return self.run

    def _log(self, numbers, epoch):
        self.runs[self.run]["rows"][epoch] = numbers

    def _close(self, status):
        self.runs[self.run]["ends"] = status


@pytest.fixture
def told(monkeypatch):
    monkeypatch.setattr(Told, "runs", {})
    return Told


def expected(history):
    keys = ("epoch", "step", "elbo", "objective", "reconstruction", "kl.z1", "beta", "lr")
    keys += ("validation.elbo", "validation.objective", "validation.kl.z1", "active_units.z1")
    keys += ("validation.elbo_se", "validation.reconstruction", "seconds")
    columns = zip(*map(history.column, keys), strict=True)
    return {values[0]: dict(zip(keys, values, strict=True)) for values in columns}


# What holds for every tracker


def test_a_tracker_is_told_every_number_of_the_history_by_its_name(told):
    t = fit(trainer(), 2, told())
    assert told.runs["run0"]["rows"] == expected(t.history)
    assert told.runs["run0"]["ends"] == "finished"


def test_the_settings_are_the_arguments_of_all_parts():
    found = settings(trainer(beta=0.5))
    assert found["lr"] == 1e-2
    assert found["beta"] == 0.5
    assert found["model"] == "VAE"
    assert found["model.event_shape"] == "(6,)"
    assert found["model.likelihood"] == "Gaussian"
    assert found["guide"] == "BottomUp"
    assert found["guide.model"] == "VAE"
    assert "guide.model.event_shape" not in found


def test_one_object_is_one_run(told):
    t, tracker = trainer(), told()
    fit(t, 1, tracker)
    fit(t, 1, tracker)
    assert [*told.runs] == ["run0"]
    assert [*told.runs["run0"]["rows"]] == [1, 2]
    fit(t, 1, told())
    assert [*told.runs["run1"]["rows"]] == [3]


@pytest.mark.parametrize("first", [True, False])
def test_an_exception_ends_the_run_as_failed(told, first):
    hung = [told(), Failing(2)]
    with pytest.raises(ZeroDivisionError):
        fit(trainer(), 3, *(hung if first else hung[::-1]))
    assert told.runs["run0"]["ends"] == "failed"
    assert [*told.runs["run0"]["rows"]] == ([1, 2] if first else [1])


def test_a_run_within_the_handling_of_another_exception_has_not_failed(told):
    try:
        raise KeyError
    except KeyError:
        fit(trainer(), 1, told())
    assert told.runs["run0"]["ends"] == "finished"


def test_an_exception_in_the_first_epoch_is_told_too(told):
    hook = callbacks.Callback()
    hook.on_step_end = Failing(2).on_epoch_end
    with pytest.raises(ZeroDivisionError):
        fit(trainer(), 1, told(), hook)
    assert told.runs["run0"]["ends"] == "failed"
    assert not told.runs["run0"]["rows"]


@pytest.fixture
def heard():
    """SIGINT is, which shells have those that they start in the background ignore."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_an_interrupted_run_is_killed(told, heard):
    def interrupt(**kwargs):
        if t.step == 4:
            os.kill(os.getpid(), signal.SIGINT)

    t, hook = trainer(), callbacks.Callback()
    hook.on_step_end = interrupt
    fit(t, 2, told(), hook, on_interrupt="return")
    assert told.runs["run0"]["ends"] == "killed"
    assert [*told.runs["run0"]["rows"]] == [1]


def test_a_resumed_run_goes_on_with_the_same_run(told, tmp_path):
    with pytest.raises(ZeroDivisionError):
        fit(trainer(), 3, told(), Failing(2), checkpoint=tmp_path, every=1)
    assert [*told.runs["run0"]["rows"]] == [1, 2]
    t = Trainer.resume(tmp_path)
    t.fit(X, validation=X, callbacks=[told(), Failing(100)], progress=False)
    assert [*told.runs] == ["run0"]
    assert told.runs["run0"]["ends"] == "finished"
    assert told.runs["run0"]["rows"] == expected(t.history)


def test_other_processes_than_the_first_say_nothing(told, monkeypatch):
    monkeypatch.setattr(ranks, "rank", lambda: 1)
    tracker = told()
    t = fit(trainer(), 1, tracker)
    assert tracker.state_dict() == {"run": None}
    assert not told.runs
    assert len(t.history) == 1


def test_a_tracker_leaves_the_training_as_it_is(told):
    plain, tracked = fit(trainer(), 2), fit(trainer(), 2, told())
    assert plain.history.column("elbo") == tracked.history.column("elbo")


@pytest.mark.parametrize(("name", "package"), PACKAGES.items())
def test_without_the_package_the_command_is_named(monkeypatch, name, package):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(ModuleNotFoundError) as error:
        getattr(callbacks, name)(None)
    told = f"{name} needs the package {package}: pip install 'pyro_vae[trackers]'"
    assert str(error.value) == told


# MLflow


@pytest.fixture(params=["file", pytest.param("sqlite", marks=pytest.mark.slow)])
def store(request, tmp_path, monkeypatch):
    pytest.importorskip("mlflow", reason="pip install 'pyro_vae[trackers]'")
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    return (
        f"sqlite:///{tmp_path}/store.db" if request.param == "sqlite" else f"file://{tmp_path}/s"
    )


def metrics(client, run):
    found = client.get_run(run).data.metrics
    return {key: [(m.step, m.value) for m in client.get_metric_history(run, key)] for key in found}


# MLflow's own use of what it stands on
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_mlflow_has_the_history_the_settings_and_the_end(store, tmp_path):
    tracker = callbacks.MLflow("tests", uri=store, name="first")
    with pytest.raises(ZeroDivisionError):
        fit(trainer(), 3, tracker, Failing(2), checkpoint=tmp_path / "run", every=1)
    client = sys.modules["mlflow"].MlflowClient(store)
    run = client.get_run(tracker.run)
    assert run.info.status == "FAILED"
    assert run.info.run_name == "first"
    assert run.data.params["model.event_shape"] == "(6,)"
    assert run.data.params["lr"] == "0.01"
    again = callbacks.MLflow("tests", uri=store)
    t = Trainer.resume(tmp_path / "run")
    t.fit(X, validation=X, callbacks=[again, Failing(100)], progress=False)
    assert again.run == tracker.run
    assert client.get_run(again.run).info.status == "FINISHED"
    found, told = metrics(client, again.run), expected(t.history)
    assert found.keys() == told[1].keys()
    for key in ("epoch", "validation.elbo", "kl.z1", "beta"):
        # The second epoch was told before and after the interruption
        assert dict(found[key]) == {epoch: row[key] for epoch, row in told.items()}
    other = callbacks.MLflow("tests", uri=store)
    fit(trainer(), 1, other)
    assert other.run != again.run
    (experiment,) = (e for e in client.search_experiments() if e.name == "tests")
    assert len(client.search_runs([experiment.experiment_id])) == 2


# Weights & Biases


def test_weights_and_biases_have_the_history_the_settings_and_the_end(tmp_path, monkeypatch):
    pytest.importorskip("wandb", reason="pip install 'pyro_vae[trackers]'")
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = {"mode": "offline", "dir": str(tmp_path)}
    tracker = callbacks.WeightsAndBiases("tests", **options)
    with pytest.raises(ZeroDivisionError):
        fit(trainer(), 3, tracker, Failing(2), checkpoint=tmp_path / "run", every=1)
    again = callbacks.WeightsAndBiases("tests", **options)
    t = Trainer.resume(tmp_path / "run")
    t.fit(X, validation=X, callbacks=[again, Failing(100)], progress=False)
    assert again.run == tracker.run
    files = sorted(tmp_path.glob("wandb/offline-run-*/*.wandb"), key=lambda f: f.stat().st_mtime)
    assert {file.name for file in files} == {f"run-{tracker.run}.wandb"}
    records = [record for file in files for record in records_of(file)]
    rows, codes, config = {}, [], {}
    for record in records:
        kind = record.WhichOneof("record_type")
        if kind == "history":
            numbers = {
                ".".join(item.nested_key) or item.key: json.loads(item.value_json)
                for item in record.history.item
            }
            rows[numbers["epoch"]] = {k: v for k, v in numbers.items() if not k.startswith("_")}
        elif kind == "exit":
            codes.append(record.exit.exit_code)
        elif kind == "run":
            config |= {i.key: json.loads(i.value_json) for i in record.run.config.update}
    assert rows == expected(t.history)
    assert codes == [1, 0]
    assert config["lr"] == 0.01
    assert config["model.event_shape"] == "(6,)"


def records_of(file):
    """What an offline run has written: a log of LevelDB behind a header of 7 bytes."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, at, parts, size = file.read_bytes(), 7, b"", 2**15
    while at + 7 <= len(data):
        if size - at % size < 7:
            at += size - at % size
            continue
        length, kind = int.from_bytes(data[at + 4 : at + 6], "little"), data[at + 6]
        parts += data[at + 7 : at + 7 + length]
        at += 7 + length
        # A whole record, or the last part of one
        if kind in (1, 4):
            yield Record.FromString(parts)
            parts = b""


# Optuna


def searched(direction="maximize", **options):
    optuna = pytest.importorskip("optuna", reason="pip install 'pyro_vae[trackers]'")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    return optuna.create_study(direction=direction, **options)


def test_optuna_prunes_bad_trials_by_the_bound_of_each_epoch(told):
    optuna = pytest.importorskip("optuna", reason="pip install 'pyro_vae[trackers]'")
    pruner = optuna.pruners.MedianPruner(n_startup_trials=2, n_warmup_steps=1)
    study, histories = searched(pruner=pruner), []
    for lr in (1e-2, 2e-2, 1e-7, 3e-2):
        study.enqueue_trial({"lr": lr})

    def objective(trial):
        t = trainer(lr=trial.suggest_float("lr", 1e-8, 1.0, log=True))
        histories.append(t.history)
        fit(t, 3, told(), callbacks.Optuna(trial))
        return t.history[-1]["validation"]["objective"]

    study.optimize(objective, n_trials=4)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "COMPLETE", "PRUNED", "COMPLETE"]
    for trial, history in zip(study.trials, histories, strict=True):
        reported = [trial.intermediate_values[epoch] for epoch in history.column("epoch")]
        assert reported == history.column("validation.objective")
    assert len(histories[2]) < 3
    assert [run["ends"] for run in told.runs.values()] == ["finished"] * 2 + ["killed", "finished"]


def test_optuna_is_told_another_key_of_the_history():
    study = searched()
    trial = study.ask()
    t = fit(trainer(), 2, callbacks.Optuna(trial, "elbo"))
    told = study.trials[0].intermediate_values
    assert [told[1], told[2]] == t.history.column("elbo")


def test_a_study_that_minimises_is_refused():
    trial = searched("minimize").ask()
    with pytest.raises(ValueError, match=r'create_study\(direction="maximize"\)'):
        callbacks.Optuna(trial)
