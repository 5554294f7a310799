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

HERE = Path(__file__).parent
ROOT = HERE.parent
FOLDER = ROOT / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
MOST_CELLS, MOST_BYTES = 24, 1 << 20
CHEAP_SECONDS = 1.0
# Of processor time, of which a busy machine takes half as much again as a quiet one: above the
# first a cell shows how far it is, and none is above the other
SILENT_SECONDS, MOST_SECONDS = 10.0, 30.0
BAR = re.compile(r"[^|]*\d+%\|")
MACHINE_PATH = re.compile(r"(?<![\w/:.])/(?:home|root|tmp|work|Users|mnt|var)/|site-packages")
NO_WARNING = re.compile(r"\b\w*Warning\b")


class Run:
    """A notebook executed in a kernel of its own, cell by cell.

    Args:
        notebook: what is executed, in place.
        folder: working directory of the kernel.
        again: most seconds of a cell's first run for it to be run a second time at once.
        checks: a file of what has to be found, see ``checking``.
    """

    def __init__(self, notebook, folder, *, again=0.0, checks=None):
        self.notebook, self.problems, self.seconds = notebook, [], 0.0
        client = nbclient.NotebookClient(
            notebook, timeout=600, resources={"metadata": {"path": str(folder)}}
        )
        with client.setup_kernel(env=self.environment()):
            runpy = f"__import__('runpy').run_path({str(HERE / 'checking.py')!r})"
            path = None if checks is None else str(checks)
            before = self.aside(client, f"__checks = {runpy}['Checks']({path!r})")
            for index, cell in enumerate(notebook.cells):
                if cell.cell_type != "code" or not self.once(client, cell, index):
                    continue
                after = self.aside(client)
                self.judge(cell, index, after - before)
                if cell.metadata.pop("seconds") < again:
                    first, count = cell.outputs, cell.execution_count
                    self.once(client, cell, index, " when run again")
                    cell.outputs, cell.execution_count = first, count
                self.aside(client, "__checks.run(globals())", f"check after {index}: ")
                before = self.aside(client)
            self.aside(client, "assert not __checks.waiting, [*__checks.waiting]", "checks: ")
            client.set_widgets_metadata()

    def aside(self, client, source="", place=""):
        """Run what is no cell of the notebook; the kernel's processor time so far."""
        time = "print(__import__('time').process_time())"
        cell = nbformat.v4.new_code_cell(f"{source}\n{time}")
        self.notebook.cells.append(cell)
        try:
            client.execute_cell(cell, len(self.notebook.cells) - 1, store_history=False)
        except nbclient.exceptions.CellExecutionError as error:
            self.problems.append(f"{place}{error}")
            return 0.0
        finally:
            self.notebook.cells.pop()
        # A stream may come in pieces
        return float("".join(o.text for o in cell.outputs if o.get("name") == "stdout"))

    def judge(self, cell, index, seconds):
        """A cell that takes long tells so, and none takes very long."""
        cell.metadata["processor"] = round(seconds, 2)
        if seconds > SILENT_SECONDS and not any(map(is_bar, cell.outputs)):
            self.problems.append(f"cell {index}: {seconds:.1f} s without a progress bar")
        if seconds > MOST_SECONDS:
            self.problems.append(f"cell {index}: {seconds:.1f} s of at most {MOST_SECONDS:g}")

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


def is_bar(output):
    """Whether an output is a progress bar, of which nothing is stored."""
    data = output.get("data", {})
    widget = "application/vnd.jupyter.widget-view+json" in data
    return widget and BAR.match(data.get("text/plain", "")) is not None


def kinds(cell):
    """The kinds of a cell's outputs, without regard to how a stream is cut into pieces."""
    outputs = [o for o in cell.outputs if not is_bar(o)]
    found = [(o.output_type, *sorted(o.get("data", {})), o.get("name", "")) for o in outputs]
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
    checks = HERE / "notebook_checks" / f"{path.stem}.py"
    run = Run(fresh, tmp_path, again=CHEAP_SECONDS, checks=checks)
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
    for cell in code_cells(notebook):
        assert not re.search(r"^\s*assert\b|assert_close|progress=False", cell.source, re.M)
        assert not any(map(is_bar, cell.outputs)), "python tests/store_notebooks.py"
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
        "from tqdm.auto import tqdm\nfor _ in tqdm(range(3)): pass",
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    checks = tmp_path / "checks.py"
    checks.write_text(
        "def check_now(n): assert n == 0\ndef check_late(sys, os): assert sys is os\n"
        "def check_never(missing): pass"
    )
    run = Run(nbformat.v4.new_notebook(cells=cells), tmp_path, again=60, checks=checks)
    found = "\n".join(run.problems)
    assert "cell 1 when run again: " in found and "cell 0" not in found
    assert "beware" in found and "stray" in found and "ZeroDivisionError" in found
    assert cells[4].outputs[0].text.strip() == str(tmp_path)
    assert "check after 4" in found and "check after 0" not in found and "check_never" in found
    assert is_bar(cells[6].outputs[0]) and kinds(cells[6]) == []
    run.judge(cells[0], 0, 11.0)
    run.judge(cells[6], 6, 31.0)
    assert run.problems[-2:] == [
        "cell 0: 11.0 s without a progress bar",
        "cell 6: 31.0 s of at most 30",
    ]
    assert [kinds(cells[0]), kinds(nbformat.v4.new_code_cell())] == [[("stream", "stdout")], []]
