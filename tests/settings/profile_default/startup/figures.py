"""Run in each kernel of the tests, and for cells run without one: beside its picture, a figure gives its numbers."""
import resource

from IPython import get_ipython
from IPython.core.formatters import JSONFormatter


class Numbers(JSONFormatter):
    """Makes of a figure its title, rows of images, curves, and how the images look."""

    def __call__(self, figure):
        if not hasattr(figure, 'get_suptitle'):
            return None
        (axes,) = figure.axes
        names, rows = [label.get_text() for label in axes.get_yticklabels()], {}
        found = {'title': axes.get_title(), 'headings': [label.get_text() for label in axes.get_xticklabels()],
                 'curves': {line.get_label(): [[*map(float, each)] for each in line.get_data()] for line in axes.lines},
                 'looks': {line.get_label(): [line.get_color(), line.get_marker()] for line in axes.lines},
                 'peak': resource.getrusage(resource.RUSAGE_SELF).ru_maxrss}    # of the memory so far, in kB
        for image in axes.images:
            column, _, _, row = image.get_extent()
            rows.setdefault(names[int(row)], {})[int(column)] = image.get_array().tolist()
            found['look'] = [*image.get_clim(), image.get_cmap().name, [*figure.get_facecolor()]]
        return {**found, 'rows': {name: [row[column] for column in sorted(row)] for name, row in rows.items()}}


formatter, kind = get_ipython().display_formatter, 'application/x-figure+json'
formatter.formatters[kind] = Numbers(parent=formatter, format_type=kind)
