"""Every notebook runs without a data set, says nothing on stderr, and stores what it shows."""

import json
import os
import re
import time
from pathlib import Path

import pytest

import pyro_vae

nbformat = pytest.importorskip("nbformat", reason="pip install 'pyro_vae[dev]' for notebooks")
nbclient = pytest.importorskip("nbclient", reason="pip install 'pyro_vae[dev]' for notebooks")
pytest.importorskip("ipykernel", reason="pip install 'pyro_vae[dev]' for notebooks")

ROOT = Path(__file__).parent.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_CELLS, MOST_BYTES = 24, 700_000
CHEAP_SECONDS = 1.0
MACHINE_PATH = re.compile(r"(?<![\w/:.])/(?:home|root|tmp|work|Users|mnt|var)/|site-packages")
NO_WARNING = re.compile(r"\b\w*Warning\b")


class Run:
    """A notebook executed in a kernel of its own, cell by cell.

    Args:
        notebook: what is executed, in place.
        folder: working directory of the kernel.
        again: most seconds of a cell's first run for it to be run a second time at once.
    """

    def __init__(self, notebook, folder, *, again):
        self.notebook, self.problems, self.seconds = notebook, [], 0.0
        client = nbclient.NotebookClient(
            notebook, timeout=600, resources={"metadata": {"path": str(folder)}}
        )
        with client.setup_kernel(env=self.environment()):
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type != "code" or not self.once(client, cell, index):
                    continue
                if cell.metadata.pop("seconds") < again:
                    first, count = cell.outputs, cell.execution_count
                    self.once(client, cell, index, " when run again")
                    cell.outputs, cell.execution_count = first, count

    @staticmethod
    def environment():
        """One thread, inline figures, no data set, this checkout's package."""
        dropped = ("MPLBACKEND", "PYRO_VAE_DATA", "PYTHONWARNINGS")
        kept = {k: v for k, v in os.environ.items() if k not in dropped}
        package = str(Path(pyro_vae.__file__).parent.parent)
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        return kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path}

    def once(self, client, cell, index, when=""):
        started = time.perf_counter()
        try:
            client.execute_cell(cell, index, store_history=not when)
        except nbclient.exceptions.CellExecutionError as error:
            self.problems.append(f"cell {index}{when}: {error}")
            return False
        finally:
            cell.metadata["seconds"] = time.perf_counter() - started
            self.seconds += cell.metadata["seconds"]
        self.problems += [f"cell {index}{when}: {noise}" for noise in noises(cell)]
        return True


def noises(cell):
    """What a cell says that nobody wants to read: stderr and warnings."""
    streams = [o for o in cell.outputs if o.output_type == "stream"]
    found = [f"stderr: {o.text}" for o in streams if o.name == "stderr"]
    return found + [o.text for o in streams if o.name != "stderr" and NO_WARNING.search(o.text)]


def kinds(cell):
    """The kinds of a cell's outputs, without regard to how a stream is cut into pieces."""
    found = [(o.output_type, *sorted(o.get("data", {})), o.get("name", "")) for o in cell.outputs]
    return [kind for i, kind in enumerate(found) if i == 0 or kind != found[i - 1]]


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def read(path):
    return nbformat.read(path, as_version=4)


def test_every_notebook_of_the_repository_is_run():
    checked_in = [p for p in ROOT.rglob("*.ipynb") if not hidden(p.relative_to(ROOT))]
    assert NOTEBOOKS == sorted(checked_in)
    mentioned = re.findall(r"notebooks/(\w+\.ipynb)", (ROOT / "README.md").read_text())
    if mentioned:
        assert sorted(set(mentioned)) == [p.name for p in NOTEBOOKS]


def hidden(path):
    return any(part.startswith(".") or part in ("build", "runs") for part in path.parts)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_notebook_runs(path, tmp_path, record_property):
    stored, fresh = read(path), read(path)
    run = Run(fresh, tmp_path, again=CHEAP_SECONDS)
    record_property("seconds", run.seconds)
    print(f"{path.stem}: {run.seconds:.0f} s")
    assert run.problems == []
    for i, (before, now) in enumerate(zip(code_cells(stored), code_cells(fresh), strict=True)):
        assert kinds(before) == kinds(now), f"stored outputs of code cell {i}: run it again"


@pytest.mark.slow
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_every_cell_runs_twice(path, tmp_path):
    assert Run(read(path), tmp_path, again=float("inf")).problems == []


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda p: p.stem)
def test_stored_notebook(path):
    notebook = read(path)
    nbformat.validate(notebook)
    assert path.stat().st_size < MOST_BYTES
    assert len(notebook.cells) <= MOST_CELLS
    assert notebook.cells[0].cell_type == "markdown" and notebook.cells[0].source.startswith("# ")
    assert notebook.metadata.kernelspec.name == "python3"
    counts = [cell.execution_count for cell in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1)), "run from top to bottom, once"
    assert any("FULL = False" in cell.source for cell in code_cells(notebook))
    assert any("check" in cell.metadata.get("tags", []) for cell in code_cells(notebook))
    for cell in code_cells(notebook):
        assert "execution" not in cell.metadata and noises(cell) == []
        texts = json.dumps([{k: v for k, v in o.items() if k != "data"} for o in cell.outputs])
        texts += json.dumps([without_pictures(o.get("data", {})) for o in cell.outputs])
        assert not MACHINE_PATH.search(texts + cell.source)


def without_pictures(data):
    return {kind: text for kind, text in data.items() if not kind.startswith("image/")}


def test_the_runner_finds_what_is_wrong(tmp_path):
    sources = [
        "import sys, warnings; n = 0; print('fine')",
        "n += 1\nassert n < 2",
        "warnings.warn('beware', stacklevel=1)",
        "print('stray', file=sys.stderr)",
        "import os; print(os.getcwd())",
        "1 / 0",
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    run = Run(nbformat.v4.new_notebook(cells=cells), tmp_path, again=60)
    found = "\n".join(run.problems)
    assert "cell 1 when run again: " in found and "cell 0" not in found
    assert "beware" in found and "stray" in found and "ZeroDivisionError" in found
    assert cells[4].outputs[0].text.strip() == str(tmp_path)
    assert [kinds(cells[0]), kinds(nbformat.v4.new_code_cell())] == [[("stream", "stdout")], []]
