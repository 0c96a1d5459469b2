"""Any sensible parameter runs and draws, pictures of digits too; what cannot work says so in one sentence."""
import ast
import os
import re
import types
from unittest import mock

import helpers
import numpy as np
import pytest
from helpers import NOTEBOOKS, cells_up_to, code_cells, cut_sample, prepared, printed, run_cells
from PIL import Image, ImageDraw, ImageOps

IMPOSSIBLE = {    # kinds of values, each once
    'ConvDAE': [('epochs', 0), ('epochs', 2.5), ('epochs', '10'), ('epochs', [2]), ('batch_size', 301), ('seed', -1),
                ('learning_rate', float('nan')), ('noise_factor', 1j), ('shown', 3), ('shown', []), ('shown', [100]),
                ('shown', [[1, 2], [3]]), ('distances', [28]), ('dense_units', [0, 32]), ('noise_factors', [-0.1])],
    'EasyDAE': [('hidden_units', 10.5), ('average_of', 100), ('average_factors', [0.0]), ('sizes', [785])],
    'BasicAE': [('original_learning_rate', 0), ('learning_rate', 1)]}


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """Return a folder with 300 training and 100 test images."""
    return cut_sample(tmp_path_factory.mktemp('tiny') / 'data')


@pytest.fixture(scope='module')
def check(tiny):
    """Return a function that runs a notebook's check with variables changed, and returns all of them."""
    spaces = {name: cells_up_to(name, 'check', data_dir=tiny, batch_size=30) for name in NOTEBOOKS}

    def check_with(name, **changes):
        with mock.patch.multiple(spaces[name], **changes):
            return run_cells([code_cells(helpers.read_notebook(name))['check']], spaces[name]).as_original
    return check_with


@pytest.mark.parametrize('name', NOTEBOOKS)
def test_all_numbers_that_a_reader_may_change_have_limits(name):
    cells = {key: ast.parse(cell.source).body for key, cell in code_cells(helpers.read_notebook(name)).items()
             if key in ('parameters', 'check')}
    limited = {each.arg for each in cells['check'][0].value.keywords}
    unlimited = {each.targets[0].id for each in cells['parameters']} - limited
    assert unlimited <= {'data_dir', 'fast', 'picture', 'model_file'}, 'give it limits in the cell `check`'


@pytest.mark.parametrize(('name', 'parameter', 'value'), [
    (name, *each) for name in NOTEBOOKS for each in IMPOSSIBLE[name]])
def test_a_value_that_cannot_work_is_named_in_one_sentence(name, parameter, value, check):
    shown = re.escape(repr(value)[:60])
    with pytest.raises(ValueError, match=rf'^{parameter} is {shown}.*: choose .*, then run all cells\.$'):
        check(name, **{parameter: value})


@pytest.mark.parametrize(('name', 'article', 'others'), [
    ('BasicAE', dict(hidden_units=64, batch_size=128, original_learning_rate=0.01), dict(learning_rate=0.1, seed=7)),
    ('EasyDAE', dict(hidden_units=32, noise_factor=0.5, batch_size=128, learning_rate=0.001), dict(epochs=2)),
    ('ConvDAE', dict(noise_factor=0.5, batch_size=128, learning_rate=0.001), dict(epochs=2))])
def test_only_mnist_with_the_settings_of_the_original_passes_for_it(name, article, others, check):
    """Known by the sum of its pixels."""
    pixels = mock.MagicMock(**{'sum.return_value': 1_567_298_545, '__len__.return_value': 60_000})
    assert check(name, **article, **others, train_images=pixels) is True
    assert check(name, **article) is False
    for setting, value in article.items():
        assert check(name, **article | {setting: value * 2}, train_images=pixels) is False


OWN_LAYER = {"64, 3, padding='same', activation='relu', name='conv1'": "64, 5, padding='same', name='conv1'"}


@pytest.mark.filterwarnings('error::UserWarning', 'error::RuntimeWarning')
@pytest.mark.parametrize(('name', 'changes', 'parameters'), [
    ('BasicAE', {}, dict(hidden_units=1000, batch_size=300, epochs=2, sizes=[784], size_epochs=1, shown=[7] * 20,
                         learning_rate=0.9, original_learning_rate=0.5)),
    ('BasicAE', {}, dict(hidden_units=1, batch_size=30, epochs=1, sizes=[784, 1], size_epochs=1, shown=[0])),
    ('EasyDAE', {}, dict(hidden_units=1, noise_factor=0, batch_size=19, epochs=12, shown=[0], seed=2**31 - 1,
                         average_of=0, average_factors=[0.1, 100], sizes=[784, 1], size_epochs=1)),
    ('ConvDAE', {}, dict(noise_factor=3, epochs=1, dense_units=[1, 4], skip_epochs=1, learning_rate=0.9, batch_size=60,
                         shown=[*range(20)], distances=[27, 0], noise_factors=[0, 100], fast='bfloat16')),
    ('ConvDAE', OWN_LAYER, dict(epochs=1, dense_units=[2], skip_epochs=1, batch_size=60, distances=[1],
                                noise_factors=[0.5], fast=False))])
def test_sensible_extremes_and_a_layer_of_ones_own_run_and_draw(name, changes, parameters, tiny, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cells = code_cells(prepared(name, changes, data_dir=tiny, **parameters))
    losses = run_cells(cells.values()).history.history['loss']
    assert len(losses) == parameters['epochs'] and np.isfinite(losses).all()
    assert 'nan' not in ''.join(map(printed, cells.values()))


PLACES = (0.30, 0.25), (0.68, 0.25), (0.48, 0.78)    # of the corners of a 7


def draw(size=(600, 800), width=44, ink=(25, 25, 30), paper=(250, 250, 247), light=1, dots=()):
    """Return a picture of a 7; light: of all rows, or of each. dots: places of black ones beside it."""
    image = Image.new('RGBA' if len(paper) == 4 else 'RGB', size, paper)
    ImageDraw.Draw(image).line([*np.ravel(np.multiply(PLACES, size))], ink, width, 'curve')
    for x, y in dots:
        ImageDraw.Draw(image).ellipse((x, y, x + 15, y + 15), 'black')
    return Image.fromarray(np.uint8(np.array(image) * np.reshape(light, (-1, 1, 1))))


KINDS = {    # a picture, and the least correlation with what it should come out as
    'turned by a phone.jpg': (draw().transpose(Image.Transpose.ROTATE_90), 0.9),
    'framed.png': (ImageOps.expand(ImageOps.expand(draw(), 6, 0), 30, 'white'), 0.8),
    'ruled.png': (draw(light=np.where(np.arange(800) % 60 < 2, 0.65, 1)), 0.8),
    'shadowed.jpg': (draw(light=np.linspace(1, 0.25, 800)), 0.8),
    'small and white on transparent.png': (draw((150, 200), 11, (255, 255, 255, 255), (255, 255, 255, 0)), 0.8),
    'red on blue.png': (draw(ink=(205, 40, 45), paper=(60, 95, 150)), 0.9),
    'faint, with dots.png': (draw(ink=(190, 190, 190), dots=[(80, 100), (80, 700)]), 0.9),
    '16 bits.png': (Image.fromarray(np.array(draw().convert('L'), 'uint16') * 250), 0.9),
    'thin and large.jpg': (draw(size=(1500, 2000), width=8), 0.8),
}


def read(picture):
    """Run the cell that reads pictures, and return what it has read."""
    space = types.ModuleType('notebook')
    space.np, space.os, space.picture = np, os, picture
    return run_cells([code_cells(helpers.read_notebook('ConvDAE'))['read_picture']], space).pictures


@pytest.mark.parametrize('kind', KINDS)
def test_a_picture_comes_out_as_if_drawn_on_a_clean_sheet(kind, tmp_path):
    """White on black, 20 pixels high, in the middle of 28 x 28."""
    drawn, (image, least) = draw(ink=(255, 255, 255), paper=(0, 0, 0)).convert('L'), KINDS[kind]
    expected = ImageOps.expand(ImageOps.pad(drawn.crop(drawn.getbbox()), (20, 20)), 4)
    image.getexif()[274] = 6 if 'turned' in kind else 1    # says how to turn it back
    image.save(tmp_path / kind, exif=image.getexif())
    (found,) = read(str(tmp_path / kind))
    assert (found.shape, found.dtype) == ((28, 28, 1), 'float32')
    assert np.corrcoef(found.ravel(), np.ravel(expected))[0, 1] > least


def test_a_picture_without_a_digit_is_named_in_one_sentence(tmp_path):
    Image.new('RGB', (300, 300), 'white').save(tmp_path / 'blank.png')
    with pytest.raises(ValueError, match=r'^.*blank\.png.*, in which no digit stands out: name another file\.$'):
        read(str(tmp_path / 'blank.png'))


def test_a_large_photo_is_not_unpacked_whole(tmp_path):
    draw(size=(3000, 4000), width=200).save(tmp_path / 'large.jpg')
    with mock.patch('PIL.ImageOps.exif_transpose', wraps=ImageOps.exif_transpose) as transpose:
        read(str(tmp_path / 'large.jpg'))
    assert max(transpose.call_args[0][0].size) < 1500
