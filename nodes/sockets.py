"""The types on Mjesec's wires, each named once. All of them are frozen values."""

from __future__ import annotations

from comfy_api.latest import io

DatasetSocket = io.Custom("MJESEC_DATASET")
TrainSettingsSocket = io.Custom("MJESEC_TRAIN_SETTINGS")
TrainingSamplesSocket = io.Custom("MJESEC_TRAINING_SAMPLES")
AxesSocket = io.Custom("MJESEC_AXES")
GridSocket = io.Custom("MJESEC_GRID")
LoraModel = io.Custom("LORA_MODEL")
LossMap = io.Custom("LOSS_MAP")
