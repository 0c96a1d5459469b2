"""Measure, in milliseconds, how long the live figures take, at full and at a quarter of the processor's speed.

Prints a pass of each network, the time from a stroke until all have answered, and the longest that a finger waits.
Needs Chromium and requirements-dev.txt; the slower speed is Chromium's CPU throttling.
"""
import shutil
from pathlib import Path

from playwright.sync_api import sync_playwright

PASS = '''name => {
    const start = performance.now();
    document.querySelector('.live').run(name, new Float32Array(784).map(Math.random));
    return performance.now() - start; }'''
STROKE = '''async ([x, y]) => {    // a dot, then looking at the last network's picture until it is another
    const canvases = [...document.querySelectorAll('.live canvas')], box = canvases[0].getBoundingClientRect();
    const seen = () => canvases.at(-1).getContext('2d').getImageData(0, 0, 28, 28).data.join(), before = seen();
    const start = performance.now(), times = [start];
    for (const type of ['pointerdown', 'pointerup']) canvases[0].dispatchEvent(new PointerEvent(type, {
        isPrimary: true, clientX: box.left + x * box.width, clientY: box.top + y * box.height}));
    while (seen() === before) {
        await new Promise(done => setTimeout(done));
        times.push(performance.now());
    }
    return [times.at(-1) - start, Math.max(...times.slice(1).map((time, place) => time - times[place]))]; }'''

with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=shutil.which('chromium'), args=['--no-sandbox'])
    for path in sorted((Path(__file__).resolve().parent.parent / 'notebooks').glob('*.html')):
        for slower in (1, 4):
            page, strokes = browser.new_page(offline=True), []
            page.goto(path.as_uri())
            page.context.new_cdp_session(page).send('Emulation.setCPUThrottlingRate', {'rate': slower})
            for place in range(1, 16):
                page.wait_for_timeout(500)
                strokes.append(page.evaluate(STROKE, [place / 16, place % 4 / 4 + 0.1]))
            answer, wait = (sorted(each)[7] for each in zip(*strokes))
            passes = {name: sorted(page.evaluate(PASS, name) for _ in range(15))[7] for name in page.locator(
                '[data-network]').evaluate_all('all => all.map(each => each.dataset.network)')}
            print(f'{path.stem}, speed 1/{slower}:', *(f'{name} {time:.1f},' for name, time in passes.items()),
                  f'a stroke {answer:.0f}, a wait {wait:.0f}')
