"""Pictures of digits as readers bring them come out as the same digit drawn on a clean sheet."""
import os

import numpy as np
import pytest
from helpers import code_cells, read_notebook, run_sources
from PIL import Image, ImageDraw, ImageFilter

SEVEN, ONE = [(0.30, 0.25), (0.68, 0.25), (0.48, 0.78)], [(0.52, 0.15), (0.49, 0.85)]


def draw(strokes=SEVEN, size=(600, 800), width=0.055, ink=(25, 25, 30), paper=(250, 250, 247), mode='RGB'):
    """Return a picture of a digit: strokes in parts of width and height, the pen's width in parts of the height."""
    image, pen = Image.new(mode, size, paper), max(1, round(width * size[1]))
    ImageDraw.Draw(image).line([(x * size[0], y * size[1]) for x, y in strokes], ink, pen, 'curve')
    return image


def turned(image):
    """Return a picture as a phone saves it: pixels turned, with a note that says how to turn them back."""
    other = image.transpose(Image.Transpose.ROTATE_90)
    other.getexif()[274] = 6
    return other


def framed(image):
    """Return a picture with a frame around the digit."""
    ImageDraw.Draw(image).rectangle([30, 40, 570, 760], outline=0, width=6)
    return image


def ruled(image):
    """Return a picture on lined paper."""
    pixels = np.array(image)
    for line in range(30, 800, 60):
        pixels[line:line + 2][pixels[line:line + 2].min(axis=2) > 150] = 150, 175, 215
    return Image.fromarray(pixels)


def shadowed(image):
    """Return a picture with the soft shadow of a hand over a part of it."""
    mask = Image.new('L', image.size, 255)
    ImageDraw.Draw(mask).ellipse([-200, 400, 300, 1000], 120)
    light = np.array(mask.filter(ImageFilter.GaussianBlur(40)), float)[..., np.newaxis] / 255
    return Image.fromarray(np.uint8(np.array(image) * light))


def transparent(ink):
    """Return a picture of a digit on nothing."""
    return draw(ink=(*ink, 255), paper=(*ink, 0), mode='RGBA')


KINDS = {    # a picture, the strokes that it shows, and the least correlation of what a person would call the same
    'turned by a phone.jpg': (lambda: turned(draw()), SEVEN, 0.9),
    'framed.png': (lambda: framed(draw()), SEVEN, 0.8),
    'ruled.png': (lambda: ruled(draw()), SEVEN, 0.8),
    'shadowed.jpg': (lambda: shadowed(draw()), SEVEN, 0.8),
    'pale.jpg': (lambda: draw(ink=(165, 165, 168)), SEVEN, 0.8),
    'white on transparent.png': (lambda: transparent((255, 255, 255)), SEVEN, 0.9),
    'black on transparent.png': (lambda: transparent((0, 0, 0)), SEVEN, 0.9),
    'a thin 1.png': (lambda: draw(ONE, (400, 400), 0.015), ONE, 0.6),
    'a thin pen, 12 megapixels.jpg': (lambda: draw(size=(3000, 4000), width=0.004), SEVEN, 0.6),
    'red on blue.png': (lambda: draw(ink=(205, 40, 45), paper=(60, 95, 150)), SEVEN, 0.9),
    'light on dark.png': (lambda: draw(ink=(240, 240, 240), paper=(20, 30, 25)), SEVEN, 0.9),
    'small.png': (lambda: draw(size=(12, 16), width=0.08), SEVEN, 0.7),
}


def read(picture):
    """Run the cell that reads pictures, and return what it has read."""
    source = code_cells(read_notebook('ConvDAE'))['read_picture'].source
    return run_sources([source], np=np, os=os, picture=picture)['pictures']


@pytest.fixture(scope='module')
def upright(tmp_path_factory):
    """Return what comes of the 7 and of the 1 on a clean sheet."""
    files = [tmp_path_factory.mktemp('upright') / name for name in ('7.png', '1.png')]
    draw().save(files[0])
    draw(ONE).save(files[1])
    return read([str(file) for file in files])


def test_digits_are_like_those_of_mnist(upright):
    """White on black, 20 pixels high, about the middle of 28 x 28."""
    assert (upright.shape, upright.dtype) == ((2, 28, 28, 1), 'float32')
    for digit in upright[..., 0]:
        inked = [np.flatnonzero(digit.max(axis=axis) > 0.3) for axis in (1, 0)]    # rows and columns
        assert 18 <= len(inked[0]) <= 20
        assert max(abs(each[0] + each[-1] - 27) for each in inked) <= 8
        assert (digit.min(), digit.max()) == (0, pytest.approx(1, abs=0.1))


@pytest.mark.parametrize('name', KINDS)
def test_a_picture_comes_out_as_if_drawn_on_a_clean_sheet(name, upright, tmp_path):
    make, strokes, least = KINDS[name]
    image = make()
    image.save(tmp_path / name, exif=image.getexif())
    (found,) = read(str(tmp_path / name))
    assert np.corrcoef(found.ravel(), upright[int(strokes is ONE)].ravel())[0, 1] > least


def test_a_jpeg_may_be_named_png(upright, tmp_path):
    draw().save(tmp_path / 'photo.png', 'JPEG')
    (found,) = read(str(tmp_path / 'photo.png'))
    assert np.corrcoef(found.ravel(), upright[0].ravel())[0, 1] > 0.9


def test_without_a_picture_ten_digits_are_typed():
    typed = read('')
    assert typed.shape == (10, 28, 28, 1)
    assert len({digit.tobytes() for digit in typed}) == 10


WRONG = {    # what is there in place of a picture
    'missing': lambda path: None,
    'a text': lambda path: path.write_text('not a picture'),
    'a folder': lambda path: path.mkdir(),
    'cut short': lambda path: [draw().save(path), path.write_bytes(path.read_bytes()[:300])],
    'blank': lambda path: Image.new('RGB', (300, 300), 'white').save(path),
}


@pytest.mark.parametrize('kind', WRONG)
def test_a_file_without_a_digit_is_named_in_one_sentence(kind, tmp_path):
    path = tmp_path / 'digit.png'
    WRONG[kind](path)
    with pytest.raises(ValueError, match=r"^picture is '[^\n]*digit\.png'[^\n]*\.$"):
        read(str(path))


@pytest.mark.parametrize('value', [5, [None], [[]], [0.5, 'a.png']])
def test_what_is_no_path_is_named_in_one_sentence(value):
    with pytest.raises(ValueError, match=r'^picture is [^\n]*\.$'):
        read(value)
