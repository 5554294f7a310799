"""Run notebooks and store what they show: ``python tests/store_notebooks.py notebooks/01*``."""

import json
import re
import sys
import tempfile
from pathlib import Path

import nbformat
from test_notebooks import HERE, Run, is_bar, read

VIEW = "application/vnd.jupyter.widget-view+json"
STATE = "application/vnd.jupyter.widget-state+json"


def store(path):
    """Run a notebook; write it, without progress bars, unless something is wrong."""
    notebook = read(path)
    checks = HERE / "notebook_checks" / f"{path.stem}.py"
    with tempfile.TemporaryDirectory() as folder:
        run = Run(notebook, folder, checks=checks)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for number, cell in enumerate(code, start=1):
        seconds = cell.metadata.pop("processor", 0.0)
        print(f"{path.stem} [{number}] {seconds:5.1f} s  {cell.source.splitlines()[-1][:60]}")
        cell.metadata.pop("execution", None)
        cell.metadata.pop("seconds", None)
        cell.execution_count = number
        cell.outputs = [output for output in cell.outputs if not is_bar(output)]
    keep_shown(notebook)
    for problem in run.problems:
        print(problem)
    where = path if not run.problems else Path(tempfile.gettempdir()) / path.name
    nbformat.write(notebook, where)
    print(f"wrote {where}, {where.stat().st_size / 1e3:.0f} kB")


def keep_shown(notebook):
    """Keep the state of widgets that are in outputs, with all that they refer to."""
    widgets = notebook.metadata.pop("widgets", None)
    views = [o.data[VIEW]["model_id"] for c in notebook.cells for o in c.get("outputs", [])
             if VIEW in o.get("data", {})]  # fmt: skip
    if not widgets or not views:
        return
    state, kept = widgets[STATE]["state"], {}
    while views:
        if (name := views.pop()) in state and name not in kept:
            kept[name] = state[name]
            views += re.findall(r"IPY_MODEL_(\w+)", json.dumps(state[name]))
    notebook.metadata.widgets = {STATE: widgets[STATE] | {"state": kept}}


if __name__ == "__main__":
    for path in sys.argv[1:]:
        store(Path(path))
