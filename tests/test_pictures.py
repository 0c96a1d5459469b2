"""Pictures of digits as readers bring them come out as the same digit drawn on a clean sheet."""
import os

import numpy as np
import pytest
from helpers import code_cells, read_notebook, run_sources
from PIL import Image, ImageDraw, ImageOps

SEVEN, ONE = [(0.30, 0.25), (0.68, 0.25), (0.48, 0.78)], [(0.52, 0.15), (0.49, 0.85)]


def draw(strokes=SEVEN, size=(600, 800), width=0.055, ink=(25, 25, 30), paper=(250, 250, 247)):
    """Return a picture of a digit: strokes in parts of width and height, the pen's width in parts of the height."""
    image, pen = Image.new('RGBA' if len(paper) == 4 else 'RGB', size, paper), max(1, round(width * size[1]))
    ImageDraw.Draw(image).line([(x * size[0], y * size[1]) for x, y in strokes], ink, pen, 'curve')
    return image


def turned(image):
    """Return a picture as a phone saves it: pixels turned, with a note that says how to turn them back."""
    image = image.transpose(Image.Transpose.ROTATE_90)
    image.getexif()[274] = 6
    return image


def lit(light):
    """Return a picture each row of which has its own light."""
    return Image.fromarray(np.uint8(np.array(draw()) * light[:, np.newaxis, np.newaxis]))


KINDS = {    # a picture, and the least correlation of what a person would call the same
    '7 turned by a phone.jpg': (lambda: turned(draw()), 0.9),
    '7 framed.png': (lambda: ImageOps.expand(ImageOps.expand(draw(), 6, 0), 30, 'white'), 0.8),
    '7 ruled.png': (lambda: lit(np.where(np.arange(800) % 60 < 2, 0.65, 1)), 0.8),
    '7 shadowed.jpg': (lambda: lit(np.linspace(1, 0.4, 800)), 0.8),
    '7 white on transparent.png': (lambda: draw(ink=(255, 255, 255, 255), paper=(255, 255, 255, 0)), 0.9),
    '7 red on blue.png': (lambda: draw(ink=(205, 40, 45), paper=(60, 95, 150)), 0.9),
    '7 thin, of 12 megapixels.jpg': (lambda: draw(size=(3000, 4000), width=0.004), 0.6),
    '1 thin.png': (lambda: draw(ONE, (400, 400), 0.015), 0.6),
}


def read(picture):
    """Run the cell that reads pictures, and return what it has read."""
    cell = code_cells(read_notebook('ConvDAE'))['read_picture']
    return run_sources([cell.source], np=np, os=os, picture=picture)['pictures']


@pytest.fixture
def upright(tmp_path):
    """Return what comes of the 7 and of the 1 on a clean sheet; the 1 is a JPEG all the same."""
    draw().save(tmp_path / '7.png')
    draw(ONE).save(tmp_path / '1.png', 'JPEG')
    return dict(zip('71', read([str(tmp_path / '7.png'), str(tmp_path / '1.png')])))


def test_a_digit_is_like_those_of_mnist(upright):
    """White on black, 20 pixels high, about the middle of 28 x 28."""
    rows, columns = (np.flatnonzero(upright['7'].max(axis=axis) > 0.3) for axis in (1, 0))
    assert (upright['7'].shape, upright['7'].dtype) == ((28, 28, 1), 'float32')
    assert 18 <= len(rows) <= 20 and max(abs(rows[0] + rows[-1] - 27), abs(columns[0] + columns[-1] - 27)) <= 8


@pytest.mark.parametrize('name', KINDS)
def test_a_picture_comes_out_as_if_drawn_on_a_clean_sheet(name, upright, tmp_path):
    image, least = KINDS[name][0](), KINDS[name][1]
    image.save(tmp_path / name, exif=image.getexif())
    assert np.corrcoef(read(str(tmp_path / name)).ravel(), upright[name[0]].ravel())[0, 1] > least


def test_without_a_picture_ten_digits_are_typed():
    assert len({digit.tobytes() for digit in read('')}) == 10


@pytest.mark.parametrize('picture', ['missing.png', 'text.png', 'blank.png', 5])
def test_what_is_no_picture_of_a_digit_is_named_in_one_sentence(picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.png').write_text('not a picture')
    Image.new('RGB', (300, 300), 'white').save('blank.png')
    with pytest.raises(ValueError, match=rf'^picture is {picture!r}[ ,][^\n]*\.$'):
        read(picture)
