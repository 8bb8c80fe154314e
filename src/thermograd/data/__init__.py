"""Data sets, decoding to uint8 memory maps, and deterministic batches."""

from thermograd.data.batches import batch_order, binarise, to_tensor
from thermograd.data.catalogue import CATALOGUE, CatalogueEntry, SourceFile, catalogue_entry
from thermograd.data.dataset import ImageDataset, fingerprint_of, first_images
from thermograd.data.named import DatasetRecord, fetch_dataset, list_datasets, load_dataset, verify_dataset
from thermograd.data.sources import FileCheck
from thermograd.data.user import load_user_images

__all__ = [
    "CATALOGUE",
    "CatalogueEntry",
    "DatasetRecord",
    "FileCheck",
    "ImageDataset",
    "SourceFile",
    "batch_order",
    "binarise",
    "catalogue_entry",
    "fetch_dataset",
    "fingerprint_of",
    "first_images",
    "list_datasets",
    "load_dataset",
    "load_user_images",
    "to_tensor",
    "verify_dataset",
]
