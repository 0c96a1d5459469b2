"""The pages, and JupyterLab itself, in a real browser: Chromium without a window, driven by Playwright."""
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import ExitStack

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import NOTEBOOKS, ROOT, SAMPLE, code_cells, read_notebook
from playwright.sync_api import expect, sync_playwright

CHROMIUM = next((path for path in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if path), None)
PHONE, DESKTOP = {'width': 360, 'height': 640}, {'width': 1440, 'height': 900}
SCROLL = "all => all.some(box => box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === 'auto')"

pytestmark = pytest.mark.skipif(not CHROMIUM, reason='there is no Chromium on this machine')


@pytest.fixture(scope='module')
def browser():
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=[
            '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'])


@pytest.fixture(params=NOTEBOOKS)
def page(browser, request):
    """Return the page of a notebook on a wide screen, of one notebook after the other."""
    with browser.new_page(viewport=DESKTOP, offline=True) as page:
        page.goto((ROOT / 'notebooks' / f'{request.param}.html').as_uri())
        yield page


@pytest.mark.parametrize('size, scheme', [(PHONE, 'dark'), (DESKTOP, 'light')], ids=['phone-dark', 'desktop-light'])
def test_page_is_open_to_all(page, size, scheme):
    """No scrolling sideways but in boxes of code; strong contrast, names, and keys that reach all."""
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate('document.documentElement.scrollWidth') == size['width']
    assert size == DESKTOP or page.locator('main > .code').evaluate_all(SCROLL)    # long lines are not broken
    paper = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert (int(re.search(r'\d+', paper)[0]) > 128) == (scheme == 'light')
    page.locator('details').evaluate_all('all => all.forEach(each => { each.open = true })')
    assert [(each['id'], each['nodes'][0]['html'][:200]) for each in Axe().run(page).response['violations']
            if each['impact'] in ('serious', 'critical')] == []


def test_headings_are_in_order_and_links_lead_somewhere(page):
    headings = page.locator('h1, h2, h3, h4').evaluate_all('all => all.map(each => Number(each.tagName[1]))')
    assert headings.count(1) == headings[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    assert page.locator('nav.contents a').count() == len(headings) - 1
    links = page.locator('a').evaluate_all('all => all.map(each => each.getAttribute("href"))')
    places = page.locator('[id]').evaluate_all('all => all.map(each => "#" + each.id)')
    places += [file.name for file in (ROOT / 'notebooks').iterdir()]
    assert {f'{name}.html' for name in NOTEBOOKS} <= set(links)
    assert [link for link in links if '//' not in link and link not in places] == []


def test_plumbing_is_folded_on_the_screen_and_printed_on_paper(page):
    folded = page.locator('details.folded').all()
    assert [details for details in folded if details.locator('div.code').is_visible()] == []
    page.emulate_media(media='print')
    assert min(details.locator('div.code').bounding_box()['height'] for details in folded) > 100


def test_jupyterlab_folds_the_plumbing_and_runs_all_cells(browser, tmp_path):
    notebook = read_notebook('EasyDAE')
    cells = code_cells(notebook)
    cells['parameters'].source += f'\ndata_dir, epochs = {str(SAMPLE)!r}, 2'
    for cell in cells.values():
        cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, tmp_path / 'EasyDAE.ipynb')
    settings = tmp_path / 'lab' / 'user-settings' / '@jupyterlab' / 'notebook-extension' / 'tracker.jupyterlab-settings'
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')    # also cells outside of the window are on the page
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}',
               '--IdentityProvider.token=', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    own = {**os.environ, 'JUPYTER_CONFIG_DIR': str(tmp_path), 'JUPYTER_RUNTIME_DIR': str(tmp_path / 'runtime')}
    with subprocess.Popen(command, cwd=tmp_path, env=own, stderr=subprocess.DEVNULL) as lab, ExitStack() as stack:
        stack.callback(lab.terminate)
        while socket.socket().connect_ex(('127.0.0.1', port)):
            assert lab.poll() is None, 'JupyterLab has not started'
            time.sleep(0.5)
        page = browser.new_page(viewport=DESKTOP)
        page.goto(f'http://127.0.0.1:{port}/lab/tree/EasyDAE.ipynb', timeout=60_000)
        page.locator('.jp-NotebookPanel-toolbar').get_by_text('Python 3').wait_for(timeout=60_000)
        folded = [cell for cell in cells.values() if 'hide-input' in cell.metadata.get('tags', [])]
        expect(page.locator('.jp-CodeCell .jp-InputPlaceholder')).to_have_count(len(folded), timeout=60_000)
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_role('menuitem', name=re.compile('^Run All Cells')).click()
        failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
        page.get_by_text(f'[{len(cells)}]:', exact=True).or_(failed).first.wait_for(timeout=180_000)
        assert failed.all_inner_texts() == []
