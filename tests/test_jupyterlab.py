"""Notebooks and the panel in a real JupyterLab, driven in Chromium: run all, choose, train."""

import contextlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import pytest

import pyro_vae

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
NOTEBOOKS = sorted((Path(__file__).parent.parent / "notebooks").glob("*.ipynb"))
THEMES = ("JupyterLab Light", "JupyterLab Dark")
# What a busy machine may take: a whole notebook or a run of the panel, and one click
MINUTES, SECONDS = 1_800_000, 120_000
ALL_HAVE_RUN = """
() => [...document.querySelectorAll('.jp-Notebook .jp-CodeCell .jp-InputPrompt')]
    .every(prompt => /\\[\\d+\\]/.test(prompt.textContent))
"""
# Captions of more than one line or cut off, and formulas that are wider than their place
WRAPPED = """
() => [...document.querySelectorAll('.jp-OutputArea-output caption')].filter(caption => {
    const range = document.createRange();
    range.selectNodeContents(caption);
    const side = caption.closest('.jp-OutputArea-output').getBoundingClientRect().right;
    return range.getClientRects().length > 1 || range.getBoundingClientRect().right > side + 1;
}).map(caption => caption.textContent)
"""
TOO_WIDE = """
() => [...document.querySelectorAll('.jp-MarkdownOutput mjx-container')]
    .filter(formula => formula.scrollWidth > formula.parentElement.clientWidth + 1)
    .map(formula => formula.parentElement.textContent)
"""


@contextlib.contextmanager
def jupyterlab(folder, theme, notebook):
    """The address of a notebook on a server of its own, with its settings in ``folder``."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token, home = secrets.token_hex(8), folder / "jupyter"
    settings = home / "lab" / "user-settings" / "@jupyterlab"
    for plugin, values in {
        "apputils-extension/themes": {"theme": theme},
        # Else cells out of sight are not in the page
        "notebook-extension/tracker": {"windowingMode": "none"},
        "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
    }.items():
        file = settings / f"{plugin}.jupyterlab-settings"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(json.dumps(values))
    kept = {k: v for k, v in os.environ.items() if k not in ("MPLBACKEND", "PYRO_VAE_DATA")}
    environment = kept | {
        "JUPYTER_CONFIG_DIR": str(home),
        "JUPYTERLAB_SETTINGS_DIR": str(home / "lab" / "user-settings"),
        "JUPYTERLAB_WORKSPACES_DIR": str(home / "lab" / "workspaces"),
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(Path(pyro_vae.__file__).parent.parent),
    }
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}"]
    command += [f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={folder / 'work'}"]
    with (
        (folder / "server.log").open("w") as log,
        subprocess.Popen(command, env=environment, stdout=log, stderr=log) as server,
    ):
        try:
            address = f"http://127.0.0.1:{port}"
            wait_for(f"{address}/api/status?token={token}", server)
            yield f"{address}/lab/tree/{notebook.name}?token={token}&reset"
        finally:
            server.terminate()


def wait_for(address, server):
    deadline = time.monotonic() + SECONDS / 1000
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(OSError), urllib.request.urlopen(address, timeout=5):
            return
        time.sleep(0.2)
    raise RuntimeError("the server did not start")


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_in_a_browser(tmp_path, notebook, theme):
    pytest.importorskip("jupyterlab", reason="pip install 'pyro_vae[notebooks]'")
    pytest.importorskip("ipywidgets", reason="pip install 'pyro_vae[notebooks]'")
    api = pytest.importorskip("playwright.sync_api", reason="pip install playwright")
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / notebook.name).write_text(json.dumps(without_outputs(notebook)))
    with jupyterlab(tmp_path, theme, notebook) as address, api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--disable-dev-shm-usage"]
        )
        page = browser.new_page(viewport={"width": 1500, "height": 1100})
        page.goto(address, timeout=SECONDS)
        try:
            run_all(page, api.expect)
            assert page.evaluate("document.body.dataset.jpThemeName") == theme
            assert page.evaluate(WRAPPED) == [] and page.evaluate(TOO_WIDE) == []
            photograph(page, tmp_path, notebook, theme)
            if page.locator(".widget-vbox").count():
                drive(page, api.expect, tmp_path, theme)
        finally:
            page.screenshot(path=tmp_path / "last.png")
            browser.close()


def run_all(page, expect):
    """Run all cells; each shows what it should, and nothing in red."""
    expect(page.locator(".jp-Notebook .jp-CodeCell").first).to_be_visible(timeout=SECONDS)
    # Before there is a session, a menu would ask for a kernel
    expect(page.get_by_text("| Idle")).to_be_visible(timeout=SECONDS)
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_role("menuitem", name="Run All Cells", exact=True).click()
    page.wait_for_function(ALL_HAVE_RUN, timeout=MINUTES, polling=1000)
    kernel = page.locator(".jp-Notebook-ExecutionIndicator").first
    expect(kernel).to_have_attribute("data-status", "idle", timeout=SECONDS)
    for wrong in ("stderr", "error"):
        assert page.locator(f".jp-OutputArea-output[data-mime-type*={wrong}]").count() == 0
    assert page.get_by_text("Error displaying widget").count() == 0


def without_outputs(path):
    """The notebook as if it had never run, so that all that is seen comes from the kernel."""
    notebook = json.loads(path.read_text())
    notebook["metadata"].pop("widgets", None)
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            cell |= {"outputs": [], "execution_count": None}
    return notebook


def drive(page, expect, folder, theme):
    """The panel: choose a guide, train, stop, be refused, compare."""
    panel = page.locator(".widget-vbox").last
    expect(panel.get_by_role("button", name="Train")).to_be_visible(timeout=SECONDS)
    panel.scroll_into_view_if_needed()
    status, picture = panel.locator("code").first, panel.locator("img").first
    before, source = status.inner_text(), picture.get_attribute("src")
    assert "ladder" in before and epoch(before) == 5
    panel.locator("select").nth(1).select_option("flow")
    expect(status).to_contain_text("flow", timeout=SECONDS)
    expect(picture).not_to_have_attribute("src", source, timeout=SECONDS)
    source = picture.get_attribute("src")
    panel.get_by_role("button", name="Train").click()
    expect(status).to_contain_text(f"epoch {epoch(before) + 10}, elbo", timeout=MINUTES)
    expect(picture).not_to_have_attribute("src", source, timeout=SECONDS)
    assert "flow" in status.inner_text() and "Error" not in panel.inner_text()
    stop_a_run(panel, expect, status)
    refuse(panel, expect)
    panel.get_by_role("button", name="Compare").click()
    expect(panel.locator("table")).to_contain_text("inference gap", timeout=MINUTES)
    page.screenshot(path=folder / f"{theme.split()[-1].lower()}-panel.png")


def stop_a_run(panel, expect, status):
    epochs, stop = (
        panel.locator("input[type=number]").nth(1),
        panel.get_by_role("button", name="Stop"),
    )
    epochs.fill("100000")
    epochs.press("Enter")
    panel.get_by_role("button", name="Train").click()
    expect(panel).to_contain_text(" of 100000), step ", timeout=SECONDS)
    stop.click()
    expect(stop).to_be_disabled(timeout=SECONDS)
    expect(status).to_contain_text("flow", timeout=SECONDS)


def refuse(panel, expect):
    """A bad number is told, and goes."""
    beta = panel.locator("input[type=number]").first
    beta.fill("-1")
    beta.press("Enter")
    expect(panel).to_contain_text("beta: expected a finite number >= 0, got -1.0", timeout=SECONDS)
    expect(beta).to_have_value("0.5", timeout=SECONDS)


def epoch(status):
    return int(re.search(r"epoch (\d+)", status)[1])


def photograph(page, folder, notebook, theme):
    """The whole notebook in pieces, for a person to look at."""
    size, name = page.viewport_size, f"{notebook.stem}-{theme.split()[-1].lower()}"
    cells = page.locator(".jp-Notebook .jp-Cell")
    height = sum(cell.bounding_box()["height"] for cell in cells.all())
    page.set_viewport_size(size | {"height": min(int(height) + 300, 16_000)})
    page.locator(".jp-WindowedPanel-outer").first.evaluate("panel => panel.scrollTo(0, 0)")
    page.wait_for_timeout(2000)
    box = page.locator(".jp-NotebookPanel").first.bounding_box()
    for i, y in enumerate(range(0, int(box["height"]), 1900)):
        clip = box | {"y": box["y"] + y, "height": min(1900, box["height"] - y)}
        page.screenshot(path=folder / f"{name}-{i}.png", clip=clip)
    page.set_viewport_size(size)
