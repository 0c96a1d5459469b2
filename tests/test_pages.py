"""The pages, and JupyterLab itself, in a real browser: Chromium without a window, driven by Playwright."""
import itertools
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from conftest import NOTEBOOKS, ROOT, SAMPLE, code_cell, read_notebook
from playwright.sync_api import sync_playwright

CHROMIUM = next((path for path in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if path), None)
PHONE, DESKTOP = {'width': 360, 'height': 640}, {'width': 1440, 'height': 900}
LARGEST_PAGE = 1_000_000    # bytes
WIDER_THAN_WINDOW = """
() => [...document.querySelectorAll('body *')]
    .filter(element => element.getBoundingClientRect().right > document.documentElement.clientWidth + 1)
    .map(element => element.tagName + '.' + element.className + ': ' + element.textContent.slice(0, 60))
"""
BROKEN_PICTURES = """
() => [...document.images].filter(image => !(image.naturalWidth && image.alt.length > 40)).length
"""

pytestmark = pytest.mark.skipif(not CHROMIUM, reason='there is no Chromium on this machine')


@pytest.fixture(scope='module')
def browser():
    """Return a browser without a window."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=[
            '--no-sandbox', '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
            '--disable-component-update', '--disable-sync'])
        yield browser
        browser.close()


def page_path(name):
    """Return where the page of a notebook is."""
    return ROOT / 'notebooks' / f'{name}.html'


@pytest.mark.parametrize('size', [PHONE, DESKTOP], ids=['phone', 'desktop'])
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_page_is_whole_without_network_and_scripts(browser, name, size):
    context = browser.new_context(viewport=size, java_script_enabled=False, offline=True)
    page = context.new_page()
    requests, complaints = [], []
    page.on('request', lambda request: requests.append(request.url))
    page.on('console', lambda message: complaints.append(message.text))
    page.on('pageerror', lambda error: complaints.append(str(error)))
    page.goto(page_path(name).as_uri())
    assert [url for url in requests if not url.startswith('data:')] == [page_path(name).as_uri()]
    assert complaints == []
    assert page.evaluate('document.documentElement.scrollWidth') == size['width']
    assert page.evaluate(WIDER_THAN_WINDOW) == []
    figures = sum('image/png' in output.get('data', {}) for cell in read_notebook(name).cells
                  if cell.cell_type == 'code' for output in cell.outputs)
    assert page.locator('img').count() == figures + 1    # and the picture at the top
    assert page.evaluate(BROKEN_PICTURES) == 0
    context.close()


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_page_is_small_and_holds_no_script_and_no_address_to_load(name):
    page = page_path(name)
    text = page.read_text(encoding='utf-8')
    assert page.stat().st_size <= LARGEST_PAGE
    assert '<script' not in text
    assert not re.search(r'\bon\w+="|@import|url\(|<(link|iframe|object|embed)\b', text)
    assert all(source.startswith('data:image/png;base64,') for source in re.findall(r'\bsrc="([^"]{0,40})', text))


@pytest.mark.parametrize('scheme', ['light', 'dark'])
@pytest.mark.parametrize('size', [PHONE, DESKTOP], ids=['phone', 'desktop'])
@pytest.mark.parametrize('name', NOTEBOOKS)
def test_axe_finds_nothing_serious(browser, name, size, scheme):
    context = browser.new_context(viewport=size, color_scheme=scheme)
    page = context.new_page()
    page.goto(page_path(name).as_uri())
    for details in page.locator('details').all():
        details.evaluate('element => element.open = true')
    found = Axe().run(page).response['violations']
    serious = [(each['id'], each['nodes'][0]['html'][:200]) for each in found
               if each['impact'] in ('serious', 'critical')]
    assert serious == []
    context.close()


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_page_has_a_title_contents_links_and_headings_in_order(browser, name):
    page = browser.new_page()
    page.goto(page_path(name).as_uri())
    heading = page.locator('h1')
    assert heading.count() == 1
    assert page.title() in heading.inner_text()
    levels = [int(tag[1]) for tag in page.locator('h1, h2, h3, h4').evaluate_all('all => all.map(e => e.tagName)')]
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(levels))
    links = page.locator('nav.contents a')
    assert links.count() == len(levels) - 1
    for link in page.locator('a[href^="#"]').all():
        target = link.get_attribute('href').removeprefix('#')
        assert page.evaluate('id => document.getElementById(id) !== null', target), target
    for other in NOTEBOOKS:
        assert page.locator(f'a[href="{other}.html"]').count() > 0
    files = page.locator('a[href$=".html"]').evaluate_all('all => all.map(e => e.getAttribute("href"))')
    assert all((page_path(name).parent / file).exists() for file in files if '//' not in file)
    page.close()


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_page_prints_with_its_code(browser, name):
    page = browser.new_page(viewport=DESKTOP)
    page.goto(page_path(name).as_uri())
    folded = page.locator('details.code .highlight').first
    assert not folded.is_visible()
    page.emulate_media(media='print')
    assert folded.bounding_box()['height'] > 20
    assert page.locator('nav.contents').evaluate('element => getComputedStyle(element).position') == 'static'
    page.close()


@pytest.fixture
def lab(tmp_path):
    """Start JupyterLab in a folder with a short EasyDAE and the sample; return the folder and the address."""
    shutil.copytree(SAMPLE, tmp_path / 'MNIST_data' / 'sample')
    notebook = read_notebook('EasyDAE')
    code_cell(notebook, 'parameters').source += "\ndata_dir, epochs = 'MNIST_data/sample', 2"
    for cell in notebook.cells:
        if cell.cell_type == 'code':
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, tmp_path / 'EasyDAE.ipynb')
    with socket.socket() as free:
        free.bind(('127.0.0.1', 0))
        port = free.getsockname()[1]
    own = {'JUPYTER_CONFIG_DIR': str(tmp_path / 'config'), 'JUPYTER_RUNTIME_DIR': str(tmp_path / 'runtime')}
    command = [sys.executable, '-m', 'jupyterlab', '--no-browser', '--allow-root', f'--port={port}',
               '--ServerApp.port_retries=0', '--IdentityProvider.token=', f'--ServerApp.root_dir={tmp_path}',
               '--LabApp.news_url=None', '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate']
    process = subprocess.Popen(command, cwd=tmp_path, env={**os.environ, **own}, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    address = f'http://127.0.0.1:{port}/lab'
    deadline = time.monotonic() + 60
    while True:
        try:
            urllib.request.urlopen(address, timeout=5).close()
            break
        except OSError:
            assert time.monotonic() < deadline, 'JupyterLab has not started'
            time.sleep(0.5)
    yield tmp_path, address
    process.terminate()
    process.wait(30)


def test_jupyterlab_runs_all_cells(browser, lab):
    folder, address = lab
    page = browser.new_page(viewport=DESKTOP)
    complaints = []
    page.on('pageerror', lambda error: complaints.append(str(error)))
    page.goto(f'{address}/tree/EasyDAE.ipynb')
    page.locator('.jp-NotebookPanel .jp-Cell').first.wait_for(timeout=60_000)
    page.locator('.jp-NotebookPanel-toolbar').get_by_text('Python 3').wait_for(timeout=60_000)
    page.get_by_role('menuitem', name='Run', exact=True).click()
    page.get_by_role('menuitem', name=re.compile('^Run All Cells')).click()
    deadline = time.monotonic() + 180
    while True:
        page.keyboard.press('Control+s')
        time.sleep(2)
        cells = [cell for cell in nbformat.read(folder / 'EasyDAE.ipynb', as_version=4).cells
                 if cell.cell_type == 'code']
        if cells[-1].execution_count:
            break
        assert time.monotonic() < deadline, [cell.execution_count for cell in cells]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert not [output for cell in cells for output in cell.outputs if output.output_type == 'error']
    assert page.locator('.jp-Cell img').count() > 0
    assert complaints == []
    page.close()
