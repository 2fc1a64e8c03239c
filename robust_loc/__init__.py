"""Visual localization that says how much to believe it."""

from pkgutil import extend_path

# A source checkout and the installed, generated ``robust_loc.msg`` are two folders of one package.
__path__ = extend_path(__path__, __name__)

__version__ = "0.1.0"
