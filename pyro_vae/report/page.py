"""The page of a report: facts, evaluation table and pictures in one file."""

from __future__ import annotations

import dataclasses
import html
import platform
import time
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pyro
import torch

from ..callbacks.collapse import complaint, ended_without
from ..data import Dataset, DataSplits, LanguagePair
from ..diagnostics.evaluation import Evaluation
from ..ground.files import write_atomically
from ..ground.streams import forked
from ..ground.tables import duration, mean_and_error, with_error
from ..programs.autoguides import few
from ..programs.placing import device_of
from ..programs.unwrapping import name_of
from ..training.trainer import Trainer
from .pictures import pictures
from .sections import OF_ARGUMENTS, SECTIONS, Run, Section

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2024; --soft: #5b636b; --page: #f5f6f7;
  --card: #ffffff; --line: #d9dde1; --accent: #1f6fb5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e8ea; --soft: #a3abb3; --page: #15181b;
  --card: #1e2226; --line: #363c42; --accent: #7cb8ee; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 4rem; max-width: 64rem; color: var(--ink);
  background: var(--page); font: 16px/1.55 system-ui, "Segoe UI", Roboto, sans-serif; }
h1 { font-size: 1.7rem; line-height: 1.25; margin: 0 0 .25rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .25rem; }
h1, h2, p, td, th { overflow-wrap: anywhere; }
p { margin: .25rem 0 .75rem; max-width: 48rem; }
p.lead, p.caption, footer { color: var(--soft); }
p.note { border: 1px solid #d98b06; border-left-width: 6px; border-radius: 6px;
  padding: .6rem .9rem; background: var(--card); margin: .75rem 0; max-width: none; }
nav { display: flex; flex-wrap: wrap; gap: .25rem 1rem; margin: 1rem 0; }
a { color: var(--accent); }
.scroll { overflow-x: auto; }
figure { display: flex; flex-wrap: wrap; justify-content: center; gap: .75rem; margin: .75rem 0;
  padding: .75rem; background: var(--card); border: 1px solid var(--line); border-radius: 8px;
  overflow-x: auto; }
picture { flex: 0 1 auto; min-width: 0; }
picture:not(:only-child) { flex: 1 1 17rem; }
figure img { display: block; margin: 0 auto; max-width: 100%; height: auto; }
pre { font-size: .85rem; line-height: 1.45; }
table { border-collapse: collapse; background: var(--card); border: 1px solid var(--line); }
caption { caption-side: bottom; padding-top: .4rem; color: var(--soft); font-size: .85rem;
  text-align: left; }
td, th { padding: .3rem .9rem; border-top: 1px solid var(--line); text-align: right;
  font-variant-numeric: tabular-nums; }
.scroll td + td, .scroll th { white-space: nowrap; }
.scroll td, .scroll th { overflow-wrap: break-word; }
tr:first-child td, tr:first-child th { border-top: 0; }
.lines { margin: .75rem 0; }
.lines td, .lines th { text-align: left; font-weight: 400; vertical-align: top; }
.lines td { white-space: pre-wrap; overflow-wrap: anywhere; }
.lines th { color: var(--soft); white-space: nowrap; }
.lines tr:not(.first) td, .lines tr:not(.first) th { border-top: 0; padding-top: 0; }
.facts { width: 100%; }
.facts td, .facts th { text-align: left; vertical-align: top; }
.facts th { font-weight: 600; white-space: nowrap; }
.facts pre { margin: .1rem 0; white-space: pre-wrap; overflow-wrap: anywhere; }
@media (max-width: 34rem) { body { padding: 1.25rem .75rem 3rem; }
  td, th { padding: .3rem .45rem; font-size: .9rem; }
  .facts td, .facts th { display: block; } .facts td { border: 0; padding-top: 0; } }
footer { margin-top: 3rem; font-size: .85rem; }
"""


def write_report(
    path: str | Path,
    trainer: Trainer,
    data: DataSplits | LanguagePair,
    *,
    evaluation: Evaluation | None = None,
    command: str = "",
    seed: int = 0,
) -> None:
    """Write one HTML file about a trained pair, all of it or nothing.

    It shows what was trained, the evaluation table, the training curves, and pictures: samples,
    reconstructions, interpolations, traversals, a map of latent space, the least likely test
    data. A picture that the pair or the data do not have is left out, one that cannot be drawn is
    a note in its place, and a warning. Images are inside the file,
    which refers to nothing outside it and has no scripts. No state changes, the trainer's and
    torch's random streams included.

    Args:
        path: file to write; its folder must exist.
        trainer: the pair and its history.
        data: what it was trained on; reconstructions and the like are of the test set. Of pairs of
            sentences, ``data.language_pair()``, translations are written.
        evaluation: ``diagnostics.evaluate(...)`` on the test set, for the table.
        command: how the run was started, shown as it is.
        seed: of the samples and of dynamic binarisation.

    Raises:
        ValueError: data that do not fit the pair.
        OSError: the file cannot be written; nothing is left behind.

    Example:
        >>> import tempfile
        >>> from pyro_vae import data, guides, likelihoods, models
        >>> d = data.load(torch.randn(40, 6))
        >>> vae = models.VAE(d.event_shape, latents=2, likelihood=likelihoods.Gaussian())
        >>> trainer = Trainer(vae, guides.BottomUp(vae), seed=0)
        >>> trainer = trainer.fit(d.train, epochs=1, progress=False)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_report(folder + "/report.html", trainer, d)
        ...     print(Path(folder, "report.html").read_text()[:15])
        <!DOCTYPE html>
    """
    device = device_of(*trainer.modules())
    with forked(device, seed):
        test = data.test.to(device)
        x, y = test, None
        if isinstance(test, Dataset):
            x, y = test.batch(torch.arange(len(test), device=device))
            test = test.replace(x=x, y=y, binarize=None)
        first = few(trainer.guide, x, y)
        sites = trainer.elbo.examine(trainer.model, trainer.guide, *first)
        page = _page(Run(trainer, data, test, sites), evaluation, command)
    write_atomically(path, page.encode("utf-8", "backslashreplace"))


def _page(run: Run, evaluation: Evaluation | None, command: str) -> str:
    data = getattr(run.data, "name", name_of(run.data))
    title = f"{data}: {name_of(run.trainer.model)} with {name_of(run.trainer.guide)}"
    sections = [("Evaluation", _table(evaluation))] if evaluation is not None else []
    began = time.perf_counter()
    for section in SECTIONS if isinstance(run.test, Dataset) else OF_ARGUMENTS:
        if figures := _figures(section, run):
            caption = f'<p class="caption">{html.escape(section.caption)}</p>'
            sections.append((section.title, caption + "".join(figures)))
    cost = _cost(run, evaluation, time.perf_counter() - began)
    links = body = ""
    for heading, content in sections:
        anchor, heading = heading.lower().replace(" ", "-"), html.escape(heading)
        links += f'<a href="#{anchor}">{heading}</a>'
        body += f'<section id="{anchor}"><h2>{heading}</h2>{content}</section>\n'
    python = platform.python_version()
    versions = f"torch {torch.__version__}, pyro {pyro.__version__}, Python {python}"
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{html.escape(title)}</title>\n<style>{_STYLE}</style></head>\n<body>\n"
        f"<h1>{html.escape(title)}</h1>\n{_notes(run, evaluation)}<nav>{links}</nav>\n"
        f"{_facts(run, command, cost)}\n{body}"
        f"<footer>Written by pyro_vae with {html.escape(versions)}.</footer>\n</body></html>\n"
    )


def _notes(run: Run, evaluation: Evaluation | None) -> str:
    history = run.trainer.history
    notes = []
    if not history:
        notes.append("Not trained: no epoch was run.")
    elif history[-1].get("interrupted"):
        notes.append(f"Training was interrupted in epoch {history[-1]['epoch']}.")
    if run.sites.point_masses:
        notes.append(
            "The guide is a point mass: where a curve says ELBO it is log p(x, z), no bound on "
            "log p(x), and where it says KL it is minus log p(z)."
        )
    if found := ended_without(history, run.sites.point_masses):
        notes.append(f"Some {complaint(history[-1], found)}.")
    if evaluation is not None and evaluation.remark:
        notes.append(evaluation.remark + ".")
    if evaluation is not None and evaluation.untrusted > 0.1:
        notes.append(_untrusted(evaluation))
    return "".join(f'<p class="note">{html.escape(note)}</p>\n' for note in notes)


def _untrusted(evaluation: Evaluation) -> str:
    """What large Pareto k say of log p(x) by importance sampling, and what annealing says."""
    share, of = f"{100 * evaluation.untrusted:.0f}%", "of the data have a Pareto k above 0.7"
    if evaluation.annealed is None:
        return (
            f"log p(x) is probably too low: {share} {of}. More importance samples or a better "
            "guide will tell."
        )
    by_samples, by_annealing = evaluation.importance, evaluation.annealed
    mean, error = mean_and_error(by_annealing.log_likelihood - by_samples.log_likelihood)
    found = f"log p(x) by importance sampling is probably too low: {share} {of}. "
    if mean > 0:
        ahead = f"{with_error(mean, error)} nats per datum"
        return f"{found}The annealed value needs no good guide; it is higher by {ahead}."
    return f"{found}The annealed value is no higher: more temperatures will tell."


def _facts(run: Run, command: str, cost: str) -> str:
    trainer, history = run.trainer, run.trainer.history
    optimizer = name_of(trainer.optimizer_class)
    programs = {"model": repr(trainer.model), "guide": repr(trainer.guide)}
    texts = {"command": command, "data": repr(run.data), **programs}
    facts = {name: f"<pre>{html.escape(text)}</pre>" for name, text in texts.items() if text}
    facts["training"] = html.escape(
        f"{len(history)} epochs, {trainer.step:,} steps of {optimizer}, learning rate "
        f"{trainer.lr:g}{_kept(history)}"
    )
    facts["beta"] = html.escape(str(trainer.beta))
    facts["cost"] = html.escape(cost)
    rows = "".join(f"<tr><th>{name}</th><td>{fact}</td></tr>" for name, fact in facts.items())
    return f'<table class="facts">{rows}</table>'


def _kept(history: Sequence[Mapping[str, Any]]) -> str:
    """What a run with patience ended with."""
    if history and history[-1].get("kept") is False:
        return "; what the run began with, the best on held-out data, was kept"
    kept = [row["epoch"] for row in history if row.get("kept")]
    return f"; epoch {kept[-1]}, the best on held-out data, was kept" if kept else ""


def _cost(run: Run, evaluation: Evaluation | None, pictures: float) -> str:
    """What took how long."""
    seconds: dict[str, float] = {}
    if rows := run.trainer.history:
        spent = sum(row.get("seconds", 0.0) for row in rows)
        seconds = {"training": spent, "an epoch of it": spent / len(rows)}
    for name, found in (("importance sampling", "importance"), ("annealing", "annealed")):
        if (found := getattr(evaluation, found, None)) is not None:
            seconds[name] = found.seconds
    seconds["pictures"] = pictures
    return ", ".join(f"{name} {duration(value)}" for name, value in seconds.items())


def _table(evaluation: Evaluation) -> str:
    caption = "Of the test set. The ELBO is the reconstruction minus the KL"
    if ways := _ways(evaluation):
        caption += f", a lower bound on log p(x), which is estimated by {' and by '.join(ways)}"
        if len(ways) > 1:
            caption += ". Both are rather too low than too high: the higher one is nearer"
    if evaluation.baselines:
        names = " and ".join(evaluation.baselines)
        caption += f". Fitted to the training data, for comparison: {names}"
    table = evaluation.table()
    # The page begins with it
    notes = [note for note in table.notes if note != evaluation.remark]
    shown = dataclasses.replace(table, notes=notes).to_html()
    return f'<p class="caption">{caption}.</p><div class="scroll">{shown}</div>'


def _ways(evaluation: Evaluation) -> list[str]:
    """How log p(x) was estimated, and in what time."""
    ways = []
    if (found := evaluation.importance) is not None:
        ends = {"error": ", until their error was small", "time": ", as many as time allowed"}
        draws = f"{found.samples} draws per datum{ends.get(found.stopped_by, '')}"
        ways.append(f"importance sampling ({draws}; {found.seconds:.0f} s)")
    if (found := evaluation.annealed) is not None:
        chains = f"{found.chains} chains of {found.temperatures} temperatures per datum"
        ways.append(f"annealed importance sampling ({chains}; {found.seconds:.0f} s)")
    return ways


def _figures(section: Section, run: Run) -> list[str]:
    """The pictures of a section, or why they could not be drawn."""
    try:
        return [pictures(section.title, drawn) for drawn in section.draw(run)]
    except Exception as error:  # whatever a program, a name or a drawing library provokes
        warnings.warn(f"report: no {section.title.lower()}: {error}", stacklevel=4)
        return [f'<p class="note">Could not be drawn: {html.escape(str(error))}</p>']
