"""ONNX models from elsewhere as networks that can be trained."""

from compress.onnx_import.importer import IMPORT_ROWS as IMPORT_ROWS
from compress.onnx_import.importer import Imported as Imported
from compress.onnx_import.importer import NotImportableError as NotImportableError
from compress.onnx_import.importer import import_onnx as import_onnx
from compress.onnx_import.whole import import_whole as import_whole
