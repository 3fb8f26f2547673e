"""What makes a model's inputs of text, sound, images and tables, published as data beside it.

A front end is a value: settings and a vocabulary, read from JSON and never code. It is fitted on
training rows, kept in the checkpoint and in the version's metadata, and handed out by the server,
so that training, evaluation, ``hlserve predict`` and a client all make the same arrays:
``front_end.apply(items)`` gives an array by input name, rows first.
"""

from hlserve.frontend.description import FRONTEND_KEY, FrontEnd, from_json, to_json
from hlserve.frontend.image import SUFFIXES as IMAGE_SUFFIXES
from hlserve.frontend.image import Image
from hlserve.frontend.log_mel import LogMel
from hlserve.frontend.settings import ItemKind, fit, item_kind
from hlserve.frontend.sound_file import SUFFIXES as SOUND_SUFFIXES
from hlserve.frontend.sound_file import Sound, read_sound
from hlserve.frontend.subwords import Subwords
from hlserve.frontend.table import Table, TableColumn
from hlserve.frontend.token_ids import INPUT, MASK, PADDING_ID, UNKNOWN_ID
from hlserve.frontend.words import Words

__all__ = [
    "FRONTEND_KEY",
    "IMAGE_SUFFIXES",
    "INPUT",
    "MASK",
    "PADDING_ID",
    "SOUND_SUFFIXES",
    "UNKNOWN_ID",
    "FrontEnd",
    "Image",
    "ItemKind",
    "LogMel",
    "Sound",
    "Subwords",
    "Table",
    "TableColumn",
    "Words",
    "fit",
    "from_json",
    "item_kind",
    "read_sound",
    "to_json",
]
