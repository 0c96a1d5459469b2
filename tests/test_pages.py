"""The pages, and JupyterLab itself, in a real browser: Chromium without a window, driven by Playwright."""
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import time

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import NOTEBOOKS, ROOT, SAMPLE, code_cells, read_notebook
from playwright.sync_api import sync_playwright

CHROMIUM = next((path for path in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if path), None)
PHONE, DESKTOP = {'width': 360, 'height': 640}, {'width': 1440, 'height': 900}
FOLDER = ROOT / 'notebooks'
PLACES = "all => all.map(each => each.getBoundingClientRect()).map(box => `${box.left} to ${box.right}`)"
SCROLL = "all => all.some(box => box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === 'auto')"

each_notebook = pytest.mark.parametrize('name', NOTEBOOKS)
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='there is no Chromium on this machine')


@pytest.fixture(scope='module')
def browser():
    """Return a browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[
            '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'])
        yield browser
        browser.close()


@each_notebook
@pytest.mark.parametrize('size, scheme', [(PHONE, 'dark'), (DESKTOP, 'light')], ids=['phone-dark', 'desktop-light'])
def test_page_is_whole_and_open_to_all(browser, name, size, scheme):
    """All pictures, no scrolling sideways but in boxes of code; strong contrast, names, and keys that reach all."""
    page = browser.new_page(viewport=size, color_scheme=scheme, offline=True)
    page.goto((FOLDER / f'{name}.html').as_uri())
    assert page.evaluate('document.documentElement.scrollWidth') == size['width']
    assert size == DESKTOP or page.locator('main > .code').evaluate_all(SCROLL)    # long lines are not broken
    images = page.locator('div.figure > img').evaluate_all('all => all.map(each => [each.naturalWidth, each.alt])')
    assert min(width for width, _ in images) > 100
    assert min(len(alt) for _, alt in images) > 40
    paper = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert (int(re.search(r'\d+', paper)[0]) > 128) == (scheme == 'light')
    page.locator('details').evaluate_all('all => all.forEach(each => { each.open = true })')
    assert [(each['id'], each['nodes'][0]['html'][:200]) for each in Axe().run(page).response['violations']
            if each['impact'] in ('serious', 'critical')] == []
    page.close()


@each_notebook
def test_page_reads_well(browser, name):
    """Headings in order, links that lead somewhere, one column."""
    page = browser.new_page(viewport=DESKTOP)
    page.goto((FOLDER / f'{name}.html').as_uri())
    headings = page.locator('h1, h2, h3, h4').evaluate_all('all => all.map(each => Number(each.tagName[1]))')
    assert headings.count(1) == headings[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings))
    assert page.locator('nav.contents a').count() == len(headings) - 1
    links = page.locator('a').evaluate_all('all => all.map(each => each.getAttribute("href"))')
    assert {f'{other}.html' for other in NOTEBOOKS} <= set(links)
    ids = page.locator('[id]').evaluate_all('all => all.map(each => "#" + each.id)')
    assert [link for link in links if '//' not in link and link not in ids and not (FOLDER / link).exists()] == []
    assert len(set(page.locator('main > :is(.text, .code, .output, .figure, .folded)').evaluate_all(PLACES))) == 1
    page.close()


@each_notebook
def test_plumbing_is_folded_on_the_screen_and_printed_on_paper(browser, name):
    page = browser.new_page(viewport=DESKTOP)
    page.goto((FOLDER / f'{name}.html').as_uri())
    folded = page.locator('details.folded').all()
    assert [details for details in folded if details.locator('div.code').is_visible()] == []
    folded[0].get_by_text(re.compile('^Code: .')).click()
    assert folded[0].locator('div.code').is_visible()
    page.emulate_media(media='print')
    assert min(details.locator('div.code').bounding_box()['height'] for details in folded) > 100
    assert not page.locator('nav.contents').is_visible()
    page.close()


@pytest.fixture
def lab(tmp_path):
    """Start JupyterLab in a folder with a short EasyDAE and the sample; return its address."""
    shutil.copytree(SAMPLE, tmp_path / 'MNIST_data' / 'sample')
    notebook = read_notebook('EasyDAE')
    code_cells(notebook)['parameters'].source += "\ndata_dir, epochs = 'MNIST_data/sample', 2"
    for cell in code_cells(notebook).values():
        cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, tmp_path / 'EasyDAE.ipynb')
    settings = tmp_path / 'lab' / 'user-settings' / '@jupyterlab' / 'notebook-extension' / 'tracker.jupyterlab-settings'
    settings.parent.mkdir(parents=True)
    settings.write_text('{"windowingMode": "none"}')    # also cells outside of the window are on the page
    with socket.create_server(('127.0.0.1', 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}',
               '--IdentityProvider.token=', f'--ServerApp.root_dir={tmp_path}', '--LabApp.news_url=None',
               '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    own = {'JUPYTER_CONFIG_DIR': str(tmp_path), 'JUPYTER_RUNTIME_DIR': str(tmp_path / 'runtime')}
    with subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **own}, stderr=subprocess.DEVNULL) as process:
        while socket.socket().connect_ex(('127.0.0.1', port)):
            assert process.poll() is None, 'JupyterLab has not started'
            time.sleep(0.5)
        yield f'http://127.0.0.1:{port}/lab/tree/EasyDAE.ipynb'
        process.terminate()


def test_jupyterlab_folds_the_plumbing_and_runs_all_cells(browser, lab):
    """Most readers run it there: they see the article first, and all cells work."""
    page, errors = browser.new_page(viewport=DESKTOP), []
    page.on('pageerror', lambda error: errors.append(str(error)))
    page.goto(lab, timeout=60_000)
    page.locator('.jp-NotebookPanel-toolbar').get_by_text('Python 3').wait_for(timeout=60_000)
    page.locator('.jp-CodeCell').nth(-1).wait_for(timeout=60_000)
    cells = code_cells(read_notebook('EasyDAE')).values()
    for cell, shown in zip(cells, page.locator('.jp-CodeCell').all(), strict=True):
        folded = 'hide-input' in cell.metadata.get('tags', [])
        assert shown.locator('.jp-InputArea-editor').is_visible() != folded, cell.id
        assert not folded or cell.source.splitlines()[0] in shown.locator('.jp-InputPlaceholder').inner_text()

    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.get_by_role('menuitem', name=re.compile('^Run All Cells')).click()
    failed = page.locator('[data-mime-type="application/vnd.jupyter.error"]')
    page.get_by_text(f'[{len(cells)}]:', exact=True).or_(failed).first.wait_for(timeout=180_000)
    assert failed.all_inner_texts() == errors == []
    pictures = {cell.id: [image.get_attribute('src') for image in shown.locator('img').all()]
                for cell, shown in zip(cells, page.locator('.jp-CodeCell').all())}
    assert pictures['setup'] == pictures['denoise'] != []    # the result opens the notebook
    page.close()
