"""Any sensible parameter runs and draws, pictures of digits too; what cannot work says so in one sentence."""
import os
import re

import numpy as np
import pytest
from helpers import NOTEBOOKS, cells_up_to, code_cells, cut_sample, read_notebook, run_sources
from PIL import Image, ImageDraw, ImageOps

IMPOSSIBLE = {    # kinds of values, each once
    'ConvDAE': [('epochs', 0), ('epochs', 2.5), ('epochs', '10'), ('epochs', None), ('epochs', True), ('epochs', (2,)),
                ('batch_size', 301), ('seed', -1), ('learning_rate', float('nan')), ('noise_factor', 1j), ('shown', []),
                ('shown', 3), ('shown', [50]), ('shown', [[1, 2], [3]]), ('shown', range(21)), ('distances', [28]),
                ('dense_units', [0, 32]), ('fast', 'no'), ('precision', 'float8')],
    'EasyDAE': [('hidden_units', 10.5)], 'BasicAE': [('sizes', [1.5]), ('size_epochs', 0)]}


@pytest.fixture(scope='module')
def tiny(tmp_path_factory):
    """Return a folder with 300 training and 50 test images."""
    return cut_sample(tmp_path_factory.mktemp('tiny') / 'data')


@pytest.fixture(scope='module')
def checked(tiny):
    """Return a function that runs a notebook's check with parameters changed, and returns its variables."""
    spaces = {name: cells_up_to(name, 'check', data_dir=tiny, batch_size=30) for name in NOTEBOOKS}
    checks = {name: code_cells(read_notebook(name))['check'].source for name in NOTEBOOKS}
    return lambda name, **parameters: run_sources([checks[name]], **{**spaces[name], **parameters})


@pytest.mark.parametrize(('name', 'parameter', 'value'), [
    (name, *each) for name in NOTEBOOKS for each in IMPOSSIBLE[name]])
def test_a_value_that_cannot_work_is_named_in_one_sentence(name, parameter, value, checked):
    shown = re.escape(repr(value)[:60])
    with pytest.raises(ValueError, match=rf'\b{parameter} (is )?{shown}.*: choose .*, then run all cells\.$'):
        checked(name, **{parameter: value})


def test_a_right_value_of_another_type_becomes_a_plain_number_or_list(checked):
    space = checked('ConvDAE', seed=np.arange(5)[2], learning_rate=1, shown=np.array([7, 7]))
    assert repr([space[name] for name in ('seed', 'learning_rate', 'shown')]) == '[2, 1.0, [7, 7]]'


@pytest.mark.filterwarnings('error::UserWarning', 'error::RuntimeWarning')
@pytest.mark.parametrize(('name', 'parameters'), [
    ('BasicAE', dict(hidden_units=1000, batch_size=300, epochs=2, sizes=[900, 784, 1], size_epochs=1, shown=[7] * 20,
                     learning_rate=1, original_learning_rate=100)),
    ('EasyDAE', dict(hidden_units=1, noise_factor=0, batch_size=19, epochs=12, shown=[0], seed=2**31 - 1)),
    ('ConvDAE', dict(noise_factor=3, epochs=1, dense_units=[1, 4], learning_rate=1, batch_size=60,
                     shown=range(20), distances=[27, 0], precision='bfloat16'))])
def test_sensible_extremes_run_and_draw(name, parameters, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    losses = cells_up_to(name, [*code_cells(read_notebook(name))][-1], data_dir=tiny, **parameters)['losses']
    assert len(losses) == parameters['epochs'] and np.isfinite(losses).all()
    assert 'nan' not in capsys.readouterr().out


def draw(size=(600, 800), width=44, ink=(25, 25, 30), paper=(250, 250, 247), light=1):
    """Return a picture of a 7; light: of all rows, or of each."""
    image = Image.new('RGBA' if len(paper) == 4 else 'RGB', size, paper)
    strokes = [(x * size[0], y * size[1]) for x, y in ((0.30, 0.25), (0.68, 0.25), (0.48, 0.78))]
    ImageDraw.Draw(image).line(strokes, ink, width, 'curve')
    return Image.fromarray(np.uint8(np.array(image) * np.reshape(light, (-1, 1, 1))))


KINDS = {    # a picture, and the least correlation of what a person would call the same
    'turned by a phone.jpg': (draw().transpose(Image.Transpose.ROTATE_90), 0.9),
    'framed.png': (ImageOps.expand(ImageOps.expand(draw(), 6, 0), 30, 'white'), 0.8),
    'ruled.png': (draw(light=np.where(np.arange(800) % 60 < 2, 0.65, 1)), 0.8),
    'shadowed.jpg': (draw(light=np.linspace(1, 0.4, 800)), 0.8),
    'white on transparent.png': (draw(ink=(255, 255, 255, 255), paper=(255, 255, 255, 0)), 0.9),
    'red on blue.png': (draw(ink=(205, 40, 45), paper=(60, 95, 150)), 0.9),
    '16 bits.png': (Image.fromarray(np.array(draw().convert('L'), 'uint16') * 250), 0.9),
    'thin and large.jpg': (draw(size=(1500, 2000), width=8), 0.6),
}


def read(picture):
    """Run the cell that reads pictures, and return what it has read."""
    cell = code_cells(read_notebook('ConvDAE'))['read_picture']
    return run_sources([cell.source], np=np, os=os, picture=picture)['pictures']


@pytest.mark.parametrize('kind', KINDS)
def test_a_picture_comes_out_as_if_drawn_on_a_clean_sheet(kind, tmp_path):
    """White on black, 20 pixels high, about the middle of 28 x 28."""
    (image, least), clean = KINDS[kind], tmp_path / 'clean.png'
    draw().save(clean, 'JPEG')    # whatever its name says
    image.getexif()[274] = 6 if 'turned' in kind else 1    # says how to turn it back
    image.save(tmp_path / kind, exif=image.getexif())
    expected, found = read([str(clean), str(tmp_path / kind)])
    assert np.corrcoef(found.ravel(), expected.ravel())[0, 1] > least
    rows, columns = (np.flatnonzero(expected.max(axis=axis) > 0.3) for axis in (1, 0))
    assert (expected.shape, expected.dtype, 18 <= len(rows) <= 20) == ((28, 28, 1), 'float32', True)
    assert max(abs(rows[0] + rows[-1] - 27), abs(columns[0] + columns[-1] - 27)) <= 8


@pytest.mark.parametrize('picture', ['missing.png', 'text.png', 'blank.png', 5])
def test_what_is_no_picture_of_a_digit_is_named_in_one_sentence(picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.png').write_text('not a picture')
    Image.new('RGB', (300, 300), 'white').save('blank.png')
    with pytest.raises(ValueError, match=rf'^picture is {picture!r}[ ,][^\n]*\.$'):
        read(picture)
