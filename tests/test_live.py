"""The figure on each page that answers, in Chromium without a window and without a network."""
import keras
import numpy as np
import pytest
import test_pages
from helpers import NOTEBOOKS
from live import NETWORKS, describe, quantize
from test_pages import FOLDER, opened

browser, page, pytestmark = test_pages.browser, test_pages.page, test_pages.pytestmark
SIDES = {network: (name, FOLDER / file) for name in NOTEBOOKS for network, file in NETWORKS[name].items()}


def pixels(page, which):
    """Return what the canvas of that selector shows, from 0 to 1, once the page has had time to answer."""
    page.wait_for_timeout(400)
    return np.array(page.locator(f'.live {which}').first.evaluate('''canvas => Array.from(canvas.getContext('2d')
        .getImageData(0, 0, canvas.width, canvas.height).data).filter((_, place) => place % 4 === 0)''')) / 255


@pytest.mark.parametrize('network', SIDES)
def test_script_computes_what_keras_computes(browser, network):
    """With the same 8-bit weights to 1e-4 a pixel; with the float weights the PSNR is the same to 0.05 dB."""
    name, file = SIDES[network]
    with opened(browser, name) as page:
        kept = page.locator('[data-kept]').evaluate('script => Array.from(atob(JSON.parse(script.textContent).digits), '
                                                    'character => character.charCodeAt(0) / 255)')
        clean = np.reshape(kept, (-1, 784)).astype('float32')
        noise = np.random.default_rng(0).normal(size=clean.shape) * (0 if name == 'BasicAE' else 0.5)
        noisy = np.clip(clean + noise, 0, 1).astype('float32')
        made = np.array([page.evaluate('([name, pixels]) => document.querySelector(".live").run(name, pixels)',
                                       [network, image.tolist()]) for image in noisy])
    model = keras.models.load_model(file)
    images = noisy.reshape(-1, *model.input_shape[1:])
    exact = keras.ops.sigmoid(model(images)).numpy().reshape(-1, 784)
    for layer in (each for each in model.layers if hasattr(each, 'kernel')):
        layer.kernel.assign(np.multiply(*quantize(layer.kernel.numpy())))
    eight_bits = keras.ops.sigmoid(model(images)).numpy().reshape(-1, 784)
    psnr, exact_psnr = (np.mean(-10 * np.log10(np.mean((clean - each)**2, axis=1))) for each in (made, exact))
    assert made.shape == (10, 784)
    assert np.abs(made - eight_bits).max() < 1e-4
    assert abs(psnr - exact_psnr) < 0.05


def test_page_opens_with_a_digit_and_asks_for_nothing(page):
    """Its own address is the one request, and the console is silent: nothing of the page is refused."""
    assert pixels(page, 'canvas').mean() > 0.05
    assert page.said == [(FOLDER / f'{page.name}.html').as_uri()]


def test_mouse_draws_and_every_network_answers(page):
    page.get_by_role('button', name='Clear').click()
    names = [f'[data-network="{network}"]' for network in NETWORKS[page.name]]
    before = [pixels(page, name) for name in names]
    box = page.locator('.live canvas').first.bounding_box()
    for x, y in ((8, 4), (8, 14), (19, 14), (19, 4), (19, 24)):    # in pixels of the canvas
        page.mouse.move(box['x'] + x * box['width'] / 28, box['y'] + y * box['height'] / 28, steps=5)
        page.mouse.down()    # again at each place: it stays down
    page.mouse.up()
    drawn = pixels(page, 'canvas').reshape(28, 28)
    assert drawn[9, 6:11].max() == 1
    assert 2 < drawn[9, 4:12].sum() < 3.5    # as wide as a stroke of MNIST
    assert drawn[26:].max() == 0
    assert [name for name, empty in zip(names, before) if np.abs(pixels(page, name) - empty).max() < 0.5] == []
    page.wait_for_timeout(900)
    assert page.get_by_role('status').text_content().count(' dB') == len(names)


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_finger_draws_on_a_phone_and_the_page_stays_where_it_is(browser, name):
    with opened(browser, name, viewport=test_pages.PHONE, has_touch=True, is_mobile=True) as page:
        page.get_by_role('button', name='Clear').tap()
        page.locator('.live canvas').first.scroll_into_view_if_needed()
        box, before = page.locator('.live canvas').first.bounding_box(), page.evaluate('scrollY')
        touch = page.context.new_cdp_session(page)
        for kind, y in (('Start', 20), ('Move', 60), ('Move', 100), ('Move', 160), ('End', None)):
            points = [{'x': box['x'] + 100, 'y': box['y'] + y}] if y else []
            touch.send('Input.dispatchTouchEvent', {'type': f'touch{kind}', 'touchPoints': points})
        assert (pixels(page, 'canvas').reshape(28, 28).max(axis=1) > 0.5).sum() > 15
        assert page.evaluate('scrollY') == before
        small = page.locator('.live :is(button, input)').evaluate_all(
            'all => all.map(each => each.getBoundingClientRect()).filter(box => Math.min(box.width, box.height) < 40)')
        assert small == []


def test_keys_and_buttons_move_the_digit(page):
    drawing, before = page.locator('.live canvas').first, pixels(page, 'canvas').reshape(28, 28)
    drawing.focus()
    drawing.press('ArrowRight')
    drawing.press('ArrowDown')
    assert (pixels(page, 'canvas').reshape(28, 28)[1:, 1:] == before[:-1, :-1]).all()
    page.get_by_role('button', name='Move left').click()
    page.get_by_role('button', name='Move up').click()
    assert (pixels(page, 'canvas').reshape(28, 28)[:-1, :-1] == before[:-1, :-1]).all()
    page.get_by_role('button', name='Next digit').click()
    assert np.abs(pixels(page, 'canvas') - before.ravel()).max() > 0.5


def test_slider_goes_from_no_noise_to_three_times_the_usual_and_clear_leaves_noise_alone(page):
    slider = page.get_by_label('Noise factor')
    slider.press('Home')
    assert (pixels(page, '[data-noisy]') == pixels(page, 'canvas')).all()
    slider.press('End')
    assert slider.input_value() == '1.5'
    assert np.abs(pixels(page, '[data-noisy]') - pixels(page, 'canvas')).mean() > 0.3
    page.get_by_role('button', name='Clear').click()
    first = pixels(page, '[data-noisy]')
    assert pixels(page, 'canvas').max() == 0
    assert 0.3 < first.mean() < 0.45    # 0.37, worked out from the normal density
    page.get_by_role('button', name='New noise').click()
    assert np.abs(pixels(page, '[data-noisy]') - first).mean() > 0.2


@pytest.mark.parametrize('scripts', [False, True], ids=['no-script', 'printed'])
def test_no_figure_where_it_cannot_answer(browser, scripts):
    with opened(browser, 'ConvDAE', java_script_enabled=scripts) as page:
        page.emulate_media(media='print' if scripts else 'screen')
        assert not page.locator('.live').is_visible()


def test_layers_that_the_script_does_not_know_stop_the_export():
    inputs, layers = keras.Input((28, 28, 1)), keras.layers
    for layer, message in ((layers.GaussianNoise(1), 'does not know GaussianNoise'), (layers.Conv2D(2, 3), "'valid'"),
                           (layers.Dense(2, activation='tanh'), "'tanh'"), (layers.UpSampling2D(3), 'size is')):
        with pytest.raises(ValueError, match=f'{layer.name}.*{message}'):
            describe(keras.Model(inputs, layer(inputs)))
