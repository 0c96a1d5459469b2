"""Any sensible value of a parameter runs and draws; one that cannot work says so before anything is trained."""
import io
import re

import matplotlib.pyplot as plt
import numpy as np
import pytest
from conftest import NOTEBOOKS, Cells, cut_sample

NAN, INFINITE = float('nan'), float('inf')
IMPOSSIBLE = {    # values of the parameters that all of these notebooks have
    NOTEBOOKS: {'epochs': [0, -1, 2.5, '10', None, INFINITE], 'batch_size': [0, 4001, 64.0],
                'learning_rate': [0, -0.1, NAN, INFINITE, 'small'], 'seed': [-1, 2**31, 0.5, None],
                'shown': [[], [1000], [-1], ['first'], [1.5]]},
    ('BasicAE', 'EasyDAE'): {'hidden_units': [0, 10.5, '64']},
    ('EasyDAE', 'ConvDAE'): {'noise_factor': [-0.5, INFINITE, NAN, 'much']},
    ('BasicAE',): {'original_learning_rate': [0, NAN], 'sizes': [[], [2, 0], ['2']], 'size_epochs': [0, 0.5]},
    ('ConvDAE',): {'dense_units': [[], [0, 32], [1.5]], 'dense_epochs': [0, '3'], 'distances': [[], [28], [-1], [0.5]],
                   'noise_factors': [[], [-1], [0.5, NAN]], 'flipped': [-0.1, 1.1, None], 'fast': ['no', None, 2],
                   'precision': ['float8', None, 16]},
}


@pytest.mark.parametrize(('name', 'parameter', 'value'), [
    (name, parameter, value) for names, parameters in IMPOSSIBLE.items() for name in names
    for parameter, values in parameters.items() for value in values])
def test_a_value_that_cannot_work_is_named_in_one_sentence(name, parameter, value):
    cells = Cells(name, **{parameter: value})
    assert list(cells.sources)[:5] == ['setup', 'parameters', 'load_images', 'images', 'check']    # before all others
    cells.run('parameters')
    cells.space |= {'train_images': range(4000), 'test_images': range(1000)}
    with pytest.raises(ValueError, match=rf'^{parameter} is {re.escape(repr(value))}: choose .*, then run all cells.$'):
        cells.run('check')


EXTREME = {    # the first of each on 20 training and 3 test images, the second on 300 and 50
    'BasicAE': [dict(hidden_units=1, batch_size=7, epochs=1, sizes=3, size_epochs=1, shown=2, seed=2**31 - 1),
                dict(hidden_units=1000, batch_size=300, epochs=3, sizes=[900, 784, 1], size_epochs=1, shown=[7] * 25,
                     learning_rate=1, original_learning_rate=100)],
    'EasyDAE': [dict(hidden_units=1, noise_factor=0, batch_size=19, epochs=1, shown=[0]),
                dict(hidden_units=900, noise_factor=20, epochs=12, seed=2**31 - 1, shown=range(30))],
    'ConvDAE': [dict(noise_factor=0, batch_size=20, epochs=1, dense_units=5, dense_epochs=1, shown=1, distances=27,
                     noise_factors=0, flipped=1, fast=False, seed=2**31 - 1),
                dict(noise_factor=3, epochs=2, dense_units=[1, 2, 3, 4], dense_epochs=2, learning_rate=1, batch_size=60,
                     shown=range(20), distances=[27, 0, 3], noise_factors=[5, 0.1], flipped=0, precision='bfloat16')],
}


@pytest.mark.filterwarnings('error::UserWarning', 'error::RuntimeWarning')
@pytest.mark.parametrize('number', range(2))
def test_sensible_extremes_run_and_draw(name, number, tiny, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    parameters, data = EXTREME[name][number], tiny if number else cut_sample(tmp_path, 20, 3)
    cells = Cells(name, data_dir=str(data), **parameters)
    space = cells.run(*cells.sources)
    for figure in [call.args[0] for call in cells.display.call_args_list if hasattr(call.args[0], 'savefig')]:
        figure.savefig(io.BytesIO())
    assert len(space['history'].history['loss']) == parameters['epochs']
    assert 'nan' not in capsys.readouterr().out
    (result,) = (figure['rows'] for title, figure in space['figures'].items()
                 if 'test digits, rebuilt' in title or title.startswith('The same noisy digits'))
    assert {len(images) for images in result.values()} == {np.size(parameters['shown'])}


def test_a_picture_of_a_digit_is_read_whatever_its_colours_size_and_place(tmp_path):
    cells = Cells('ConvDAE')
    cells.run('setup', 'read_picture')
    cells.execute(cells.sources['picture'].split('files = ')[0], 'type_digit')
    read_picture, type_digit = cells.space['read_picture'], cells.space['type_digit']
    grey, expected = plt.imread(type_digit('4'))[..., :3], read_picture(type_digit('4'))    # black on white
    inked = [np.flatnonzero(expected[..., 0].max(axis=axis) > 0.3) for axis in (1, 0)]    # rows and columns
    assert 18 <= max(map(len, inked)) <= 20
    assert max(abs(each[0] + each[-1] - 27) for each in inked) <= 2
    kinds = {'light on dark': 1 - grey, 'pale': 0.4 + 0.3 * grey, 'blue ink': np.maximum(grey, [0, 0, 1]),
             'transparent': np.dstack([0 * grey, 1 - grey[..., 0]]), 'large': np.kron(grey, np.ones((5, 5, 1))),
             'off the middle': np.pad(grey, ((0, 90), (200, 0), (0, 0)), constant_values=1)}
    for kind, picture in kinds.items():
        plt.imsave(tmp_path / 'picture.png', picture)
        np.testing.assert_allclose(read_picture(str(tmp_path / 'picture.png')), expected, atol=0.03, err_msg=kind)
    plt.imsave(tmp_path / 'picture.jpg', grey)
    assert np.abs(read_picture(str(tmp_path / 'picture.jpg')) - expected).mean() < 0.03    # where 0.13 is ink

    (tmp_path / 'text.png').write_text('not a picture')
    for name in ('missing.png', 'text.png', '.'):
        with pytest.raises(ValueError, match=r"^picture is '.*', which cannot be read as an image \(.*\): name a PNG"):
            read_picture(str(tmp_path / name))
    plt.imsave(tmp_path / 'blank.png', np.ones((30, 30, 3)))
    with pytest.raises(ValueError, match=r"^picture is '.*', in which nothing stands out: name another file\.$"):
        read_picture(str(tmp_path / 'blank.png'))
