"""Trainings that are stopped and gone on with, and networks that cannot be kept."""
import resource
from unittest import mock

import keras
import pytest
from helpers import code_cells, cut_sample, figures, prepared, run_cells, table


class Reader:
    """Runs cells of a notebook, on 300 images, in any order and stops them."""

    def __init__(self, name, folder, **parameters):
        self.cells = code_cells(prepared(name, data_dir=cut_sample(folder / 'tiny'), batch_size=30, **parameters))
        self.space, self.folder = None, folder
        self.run('setup', 'batches')

    def run(self, first, last=None, stop_in=None):
        """Run cells from one to another; stop when a network begins an epoch, as the button of Jupyter does."""
        def begin(callback, epoch, logs=None):
            if (callback.model.name, epoch) == stop_in:
                raise KeyboardInterrupt

        names = [*self.cells]
        wanted = names[names.index(first):names.index(last or first) + 1]
        with mock.patch.object(keras.callbacks.History, 'on_epoch_begin', begin):
            self.space = run_cells([self.cells[each] for each in wanted], self.space)

    def epochs(self):
        """Return from the table of ConvDAE for each network the number of epochs that it was trained."""
        return {name: row['epochs'] for name, row in table(self.cells['table']).items() if name != 'noisy'}


@pytest.fixture(scope='module')
def conv(tmp_path_factory):
    """Return ConvDAE, the training of which was stopped after an epoch, then the rest was run."""
    folder = tmp_path_factory.mktemp('conv')
    conv = Reader('ConvDAE', folder, epochs=3, dense_units=[5, 6], skip_epochs=2, distances=[3], noise_factors=[0.5],
                  model_file=str(folder / 'kept.keras'))
    with pytest.raises(KeyboardInterrupt):
        conv.run('train', stop_in=('ConvDAE', 1))
    conv.run('curve', 'picture')
    return conv


def test_after_a_stopped_training_the_rest_shows_what_was_trained_so_far(conv):
    assert conv.epochs() == {'convolutional': 1, 'dense 5': 3, 'dense 6': 3, 'skip connections': 2}
    rows = [*figures(conv.cells['compare'])[0]['rows']][2:]
    assert [row.split(',')[0] for row in rows] == [*conv.epochs()]


def test_a_stopped_training_is_gone_on_with_and_ends_once(conv):
    for _ in range(2):
        conv.run('train')
        history = conv.space.history.history
        assert (len(history['loss']), history['seconds']) == (3, sorted(history['seconds'])[:3])


def test_a_comparison_that_is_stopped_shows_the_networks_so_far(conv):
    conv.run('networks')
    with pytest.raises(KeyboardInterrupt):
        conv.run('dense', stop_in=('dense_5', 2))
    conv.run('time_curve', 'compare')
    assert conv.epochs() == {'convolutional': 3, 'dense 5': 2}


def test_a_full_disk_does_not_cost_the_network_that_was_kept(conv):
    before = {path: path.read_bytes() for path in conv.folder.glob('*.*')}
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        with pytest.raises(OSError, match='File too large'):
            conv.run('save')
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert before and {path: path.read_bytes() for path in conv.folder.glob('*.*')} == before


def test_a_dense_training_that_is_stopped_is_gone_on_with_and_ends_once(tmp_path):
    easy = Reader('EasyDAE', tmp_path, epochs=3)
    for epochs in (0, 2):
        with pytest.raises(KeyboardInterrupt):
            easy.run('train', stop_in=('EasyDAE', epochs))
        easy.run('curve')
        assert figures(easy.cells['curve'])[0]['curves']['EasyDAE'].shape[-1] == epochs
    for _ in range(2):
        easy.run('train', 'denoise')
        assert len(easy.space.losses) == 3
    begun = easy.space.losses
    for cell in ('model', 'compile', 'train'):    # a fresh start, without what is folded
        easy.run(cell)
    assert len(easy.space.losses) == 3 and easy.space.losses[0] > begun[-1]


def test_sizes_that_are_stopped_are_drawn_so_far(tmp_path):
    basic = Reader('BasicAE', tmp_path, epochs=1, size_epochs=2)
    basic.run('train', 'strange')
    with pytest.raises(KeyboardInterrupt):
        basic.run('sizes', stop_in=('BasicAE', 1))
    basic.run('size_curve')
    assert figures(basic.cells['size_curve'])[0]['curves']['BasicAE'].shape == (2, 0)
