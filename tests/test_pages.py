"""The pages in a real browser: Chromium without a window, driven by Playwright."""
import re
import shutil

import nbformat
import pytest
from axe_playwright_python.sync_playwright import Axe
from helpers import NOTEBOOKS, ROOT
from playwright.sync_api import sync_playwright
from run_notebooks import page_of

CHROMIUM = next((path for path in map(shutil.which, ('chromium', 'chromium-browser', 'google-chrome')) if path), None)
PHONE, DESKTOP = {'width': 360, 'height': 640}, {'width': 1440, 'height': 900}
FOLDER = ROOT / 'notebooks'
SCROLL = "all => all.some(box => box.scrollWidth > box.clientWidth && getComputedStyle(box).overflowX === 'auto')"

pytestmark = pytest.mark.skipif(not CHROMIUM, reason='there is no Chromium on this machine')


@pytest.fixture(scope='module')
def browser():
    with sync_playwright() as playwright:
        yield playwright.chromium.launch(executable_path=CHROMIUM, args=[
            '--no-sandbox', '--disable-gpu', '--disable-background-networking', '--disable-component-update'])


def opened(browser, name, **options):
    """Return the page of a notebook in a window of its own, which notes requests and faults."""
    page = browser.new_page(**{'viewport': DESKTOP, 'offline': True, **options})
    page.said, page.name = [], name
    page.on('request', lambda request: page.said.append(request.url))
    page.on('console', lambda message: page.said.append(message.text))
    page.on('pageerror', lambda error: page.said.append(str(error)))
    page.goto((FOLDER / f'{name}.html').as_uri())
    return page


@pytest.fixture(params=NOTEBOOKS)
def page(browser, request):
    """Return the page of a notebook on a wide screen, of one notebook after the other."""
    with opened(browser, request.param) as page:
        yield page


@pytest.mark.parametrize('size, scheme', [(PHONE, 'dark'), (DESKTOP, 'light')], ids=['phone-dark', 'desktop-light'])
def test_page_is_open_to_all(page, size, scheme):
    """No scrolling sideways but in boxes of code; contrast, names, headings in order, keys that reach all."""
    page.set_viewport_size(size)
    page.emulate_media(color_scheme=scheme)
    assert page.evaluate('document.documentElement.scrollWidth') == size['width']
    page.locator('details').evaluate_all('all => all.forEach(each => { each.open = true })')
    assert page.locator('main .code').evaluate_all(SCROLL) == (size == PHONE)    # long lines are not broken
    paper = page.evaluate('getComputedStyle(document.body).backgroundColor')
    assert (int(re.search(r'\d+', paper)[0]) > 128) == (scheme == 'light')
    widths = [image.bounding_box()['width'] for image in page.locator('.figure img').all()]
    assert min(widths) > 300 and (size == DESKTOP or round(max(widths)) == 34 * 16)    # a figure can be read
    assert not page.locator('.figure').evaluate_all("all => all.some(each => getComputedStyle(each).filter !== 'none')")
    assert [(each['id'], each['nodes'][0]['html'][:200]) for each in Axe().run(page).response['violations']
            if each['impact'] != 'minor'] == []


@pytest.mark.filterwarnings('ignore:Non-unique cell id')
def test_cells_are_found_without_ids_and_their_tables_fit_a_phone(browser):
    """Another editor drops the ids of cells, or gives two the same."""
    table = ('| network | weights | cross-entropy | PSNR | SSIM |\n|:--|--:|--:|--:|--:|\n'
             '| skip connections | 121,281 | 0.0905 | 20.65 | 0.880 |')
    output = nbformat.v4.new_output('display_data', {'text/markdown': table, 'text/plain': 'a table'})
    code = nbformat.v4.new_code_cell('# @title Read the data\n1', outputs=[output], metadata={'tags': ['hide-input']})
    cells = [code, *(nbformat.v4.new_markdown_cell(text) for text in ('# A title', '## Data'))]
    for cell in cells:
        cell.id = 'same'
    with browser.new_page(viewport={'width': 390, 'height': 640}, offline=True) as page:
        page.set_content(page_of('BasicAE', nbformat.v4.new_notebook(cells=cells, metadata={})))
        assert page.title() == 'A title'
        assert page.locator('.contents').count() == 1
        assert page.locator('summary').first.text_content() == 'Code: read the data'
        assert page.locator('.table td').all_text_contents()[-1] == '0.880'
        assert page.locator('.table').evaluate('box => box.scrollWidth <= box.clientWidth')
        assert page.locator('.code').first.get_attribute('translate') == 'no'
        assert not page.locator('.live').count()    # no digits were kept


def test_links_lead_somewhere(page):
    links = page.locator('a').evaluate_all('all => all.map(each => each.getAttribute("href"))')
    places = page.locator('[id]').evaluate_all('all => all.map(each => "#" + each.id)')
    assert {f'{name}.html' for name in NOTEBOOKS} <= set(links)
    assert [link for link in links if '//' not in link and link not in places
            and not (FOLDER / link).exists()] == []


def test_plumbing_is_folded_on_the_screen_and_printed_on_paper(page):
    folded = page.locator('details.folded').all()
    assert [details for details in folded if details.locator('div.code').is_visible()] == []
    page.emulate_media(media='print')
    assert min(details.locator('div.code').bounding_box()['height'] for details in folded) > 100
