"""Distances between sets of images in the feature spaces of named, hashed networks."""

from thermograd.metrics.classifier import ClassifierFeatures, classifier_features
from thermograd.metrics.counts import distance_name, images_needed, left_out
from thermograd.metrics.distance import (
    Estimate,
    frechet_at_infinity,
    frechet_distance,
    frechet_standard_error,
    kernel_distance,
)
from thermograd.metrics.efficientnet import EfficientNetFeatures
from thermograd.metrics.features import FeatureExtractor, InceptionFeatures, extract_features
from thermograd.metrics.neighbours import Neighbours, nearest_neighbours
from thermograd.metrics.scoring import DistanceRecord, Reference, floor, reference_features, score_images

__all__ = [
    "ClassifierFeatures",
    "DistanceRecord",
    "EfficientNetFeatures",
    "Estimate",
    "FeatureExtractor",
    "InceptionFeatures",
    "Neighbours",
    "Reference",
    "classifier_features",
    "distance_name",
    "extract_features",
    "floor",
    "frechet_at_infinity",
    "frechet_distance",
    "frechet_standard_error",
    "images_needed",
    "kernel_distance",
    "left_out",
    "nearest_neighbours",
    "reference_features",
    "score_images",
]
