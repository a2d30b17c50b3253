"""Host extension of the demo: tells ComfyUI the sizes of the tiny SDXL, so that CheckpointLoaderSimple can load it.

It adds no node and changes nothing for other models; it is no part of the plugin.
"""

from __future__ import annotations

import comfy.supported_models as supported_models
from comfy.sdxl_clip import SDXLClipModel, SDXLTokenizer
from comfy.supported_models_base import ClipTarget

from . import sizes

NODE_CLASS_MAPPINGS: dict[str, type] = {}


class TinySDXLClipModel(SDXLClipModel):
    def __init__(self, device="cpu", dtype=None, model_options={}) -> None:  # noqa: ANN001, B006 - the host's signature
        options = {**model_options, "clip_l_model_config": sizes.TEXT_CONFIG, "clip_g_model_config": sizes.TEXT_CONFIG}
        super().__init__(device=device, dtype=dtype, model_options=options)


class TinySDXL(supported_models.SDXL):
    unet_config = {
        **supported_models.SDXL.unet_config,
        "model_channels": sizes.MODEL_CHANNELS,
        "transformer_depth": [depth for depth in sizes.TRANSFORMER_DEPTH for _ in range(2)],
        "context_dim": sizes.CONTEXT_DIM,
        "adm_in_channels": sizes.ADM_IN_CHANNELS,
    }
    unet_extra_config = {"num_heads": -1, "num_head_channels": sizes.HEAD_CHANNELS}

    def clip_target(self, state_dict={}):  # noqa: ANN001, ANN201, B006 - the host's signature
        return ClipTarget(SDXLTokenizer, TinySDXLClipModel)


supported_models.models.append(TinySDXL)
