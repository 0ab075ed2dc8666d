from . import methods as methods
from . import readouts as readouts
from .attribution import Attribution as Attribution
from .errors import CheckpointError as CheckpointError
from .errors import InputError as InputError
from .errors import MambascopeError as MambascopeError
from .errors import MapTooLargeError as MapTooLargeError
from .errors import OutputError as OutputError
from .errors import ReconstructionError as ReconstructionError
from .errors import UnsupportedModelError as UnsupportedModelError
from .explanation import explain as explain
from .explanation.captum_attribution import CaptumAttribution as CaptumAttribution
from .explanation.gallery import head_gallery as head_gallery
from .explanation.writing import write_maps as write_maps
from .inputs.pictures import read_picture as read_picture
from .loading.bundled import bundled_models as bundled_models
from .loading.load import load as load
from .theory.classification import classify as classify
from .trace import Trace as Trace
from .trace import capture as capture

__version__: str
