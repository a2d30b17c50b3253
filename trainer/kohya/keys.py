"""The keys of kohya-ss/sd-scripts that change nothing here, those that must be off, and those of other models.

Everything that `settings` does not read is looked up here; what is in no table is refused as unknown.
"""

from __future__ import annotations

import re

_MEMORY = "it changes the memory or speed of sd-scripts, not the result; this trainer has its own way"
_ATTENTION = "attention is computed by torch's own functions"
_HUB = "nothing is ever uploaded or downloaded"
_LOGS = "every run writes its own log"
_STATE = "the state of every run is saved by itself until the run is finished, and only the latest is kept"
_SAMPLES = "sample pictures are made by the graph, not by the configuration"
NO_SAMPLES = "the command line draws no sample pictures; in ComfyUI, Training Samples does"
_TABLE = (
    "captions of metadata files are read by caption_table of Load Image Dataset in ComfyUI alone; take that, or write "
    "them into text files beside the images"
)
_DATASET_CACHE = "images are read once and cached by their content"

NO_EFFECT: dict[str, str] = {
    "epoch": "it is a widget of the GUI; the length follows from max_train_steps or max_train_epochs",
    "noise_offset_type": "it is a widget of the GUI; noise_offset and multires_noise_iterations decide",
    "stop_text_encoder_training": "sd-scripts' LoRA script does not read it",
    "clip_skip": "SDXL's text encoders are always read before their last layer",
    "cache_latents_to_disk": "latents are always cached on disk, by content",
    "skip_cache_check": _DATASET_CACHE,
    "cache_info": _DATASET_CACHE,
    "vae_batch_size": "images are encoded one by one, so that every size fits",
    "cache_text_encoder_outputs": "the text of frozen encoders is always encoded once",
    "cache_text_encoder_outputs_to_disk": "the text of frozen encoders is always encoded once",
    "text_encoder_batch_size": "the text of frozen encoders is always encoded once",
    "max_data_loader_n_workers": _MEMORY,
    "persistent_data_loader_workers": _MEMORY,
    "lowram": _MEMORY,
    "highvram": _MEMORY,
    "cpu_offload_checkpointing": _MEMORY,
    "blocks_to_swap": _MEMORY,
    "disable_mmap_load_safetensors": _MEMORY,
    "fused_backward_pass": _MEMORY,
    "dynamo_backend": _MEMORY,
    "xformers": _ATTENTION,
    "sdpa": _ATTENTION,
    "mem_eff_attn": _ATTENTION,
    "ddp_timeout": "accelerate's own default is used",
    "ddp_gradient_as_bucket_view": "gradients are averaged once a step",
    "ddp_static_graph": "gradients are averaged once a step",
    "tokenizer_cache_dir": "the tokenizer is read from a local folder",
    "huggingface_repo_id": _HUB,
    "huggingface_repo_type": _HUB,
    "huggingface_path_in_repo": _HUB,
    "huggingface_token": _HUB,
    "huggingface_repo_visibility": _HUB,
    "save_state_to_huggingface": _HUB,
    "async_upload": _HUB,
    "wandb_api_key": _HUB,
    "wandb_run_name": _HUB,
    "logging_dir": _LOGS,
    "log_with": _LOGS,
    "log_prefix": _LOGS,
    "log_config": _LOGS,
    "log_tracker_name": _LOGS,
    "log_tracker_config": _LOGS,
    "console_log_level": _LOGS,
    "console_log_file": _LOGS,
    "console_log_simple": _LOGS,
    "save_state": _STATE,
    "save_state_on_train_end": "the state of a finished run is deleted, so that it cannot be lengthened: a longer run "
    "begins anew",
    "save_last_n_epochs_state": _STATE,
    "save_last_n_steps_state": _STATE,
    "sample_prompts": _SAMPLES,
    "sample_sampler": _SAMPLES,
    "sample_every_n_steps": _SAMPLES,
    "sample_every_n_epochs": _SAMPLES,
    "sample_at_first": _SAMPLES,
    "output_config": "it asks sd-scripts to write a file and to end",
    "debug_dataset": "it asks sd-scripts to show images and to end; Load Image Dataset has a contact sheet",
    "use_safetensors": "the file is always safetensors",
    "training_comment": "no comment is written into the file",
    "metadata_title": "the title in the file is its name",
    "metadata_author": "no author is written into the file",
    "metadata_description": "no description is written into the file",
    "metadata_license": "no licence is written into the file",
    "metadata_tags": "no tags are written into the file",
    "metadata_merged_from": "the LoRA is trained and not merged",
    "metadata_preprocessor": "nothing preprocesses the images",
    "metadata_thumbnail": "no picture is written into the file",
    "metadata_trigger_phrase": "no trigger phrase is written into the file",
    "metadata_usage_hint": "no hint is written into the file",
    "max_validation_steps": "every held-out image is measured",
    "validation_seed": "the seed decides which images are held out",
    "lr_decay_steps": "no schedule here has a decay of its own",
    "lr_scheduler_timescale": "it belongs to the schedule inverse_sqrt",
    "lr_scheduler_min_lr_ratio": "it belongs to the schedules cosine_with_min_lr and warmup_stable_decay",
    "metadata_is_negative_embedding": "it belongs to textual inversion",
    "network_multiplier": "sd-scripts writes it into its own data and reads it for LoRA only as 1",
}

SAMPLE_KEYS = tuple(key for key, reason in NO_EFFECT.items() if reason == _SAMPLES)

# key: (values that are as good as none, what to do about any other)
MUST_BE_OFF: dict[str, tuple[tuple[object, ...], str]] = {
    "v2": ((), "it is of Stable Diffusion 2, and only SDXL is trained here; remove it"),
    "full_fp16": ((), "it rounds the LoRA's weights to fp16 at every step; remove it, mixed_precision fp16 is enough"),
    "full_bf16": ((), "it rounds the LoRA's weights to bf16 at every step; remove it, mixed_precision bf16 is enough"),
    "color_aug": ((), "colours are not varied here; remove it, or vary the images beforehand"),
    "random_crop": ((), "images are always cropped in their middle; remove it"),
    "face_crop_aug_range": ((), "faces are not looked for; remove it and crop the images beforehand"),
    "weighted_captions": ((), "captions are read literally; remove it and the weights in brackets"),
    "token_warmup_step": ((0,), "captions have all their tokens from the first step on; set it to 0"),
    "token_warmup_min": ((1,), "captions have all their tokens from the first step on; remove it"),
    "dataset_class": ((), "data sets of one's own code are never loaded; remove it"),
    "custom_attributes": (({},), "no part of the training reads it; remove it"),
    "network_train_text_encoder_only": ((), "the U-Net is always trained; remove it"),
    "network_weights": ((), "training always starts with a fresh LoRA; remove it, or merge that file into the MODEL"),
    "dim_from_weights": ((), "there are no weights to start from; give network_dim"),
    "base_weights": (([],), "files are not merged into the base; merge them in the graph with Load LoRA, or remove it"),
    "base_weights_multiplier": (([],), "files are not merged into the base; remove it"),
    "scale_weight_norms": ((0,), "weights are not scaled down; remove it and lower the learning rate instead"),
    "v_pred_like_loss": ((0,), "the loss has no such part; remove it"),
    "perlin_noise": ((0,), "there is no Perlin noise; remove it or take noise_offset"),
    "deepspeed": ((), "DeepSpeed is not used; remove it, accelerate launch works without"),
    **dict.fromkeys(
        (
            "zero_stage",
            "zero3_init_flag",
            "zero3_save_16bit_model",
            "fp16_master_weights_and_gradients",
            "offload_optimizer_device",
            "offload_optimizer_nvme_path",
            "offload_param_device",
            "offload_param_nvme_path",
        ),
        ((), "it belongs to DeepSpeed, which is not used; remove it"),
    ),
    "resume": ((), "sd-scripts' states cannot be read; remove it, an interrupted run here goes on by itself"),
    "resume_from_huggingface": ((), "nothing is ever downloaded; remove it"),
    "initial_epoch": ((1,), "a run starts at its beginning or goes on where it stopped; remove it"),
    "initial_step": ((0,), "a run starts at its beginning or goes on where it stopped; remove it"),
    "skip_until_initial_step": ((), "a run starts at its beginning or goes on where it stopped; remove it"),
    "train_inpainting": ((), "inpainting models cannot be trained; remove it"),
    "save_last_n_epochs": ((0,), "no file is ever deleted; remove it and delete files yourself"),
    "save_last_n_steps": ((0,), "no file is ever deleted; remove it and delete files yourself"),
    "no_metadata": ((), "the file always says how it was made; remove it"),
    "in_json": ((), _TABLE),
    "metadata_file": ((), _TABLE),
    "lr_scheduler_type": ((), "schedules of one's own code are not loaded; give lr_scheduler"),
    "resize_interpolation": (("area",), "images are shrunk by area and enlarged by Lanczos; remove it"),
    "caption_prefix": ((), "words are put before captions by the trigger alone; write them into the caption files"),
    "caption_suffix": ((), "words are put behind captions by nothing; write them into the caption files"),
    "secondary_separator": ((), "tags have one separator; write the caption files with caption_separator"),
}

# what the GUI and sd-scripts write for other families of models
OTHER_FAMILIES = frozenset(
    re.findall(
        r"\w+",
        "clip_l clip_g clip_l_dropout_rate clip_g_dropout_rate t5xxl t5xxl_device t5xxl_dtype t5_dropout_rate "
        "t5xxl_max_token_length apply_t5_attn_mask ae guidance_scale model_type split_mode mem_eff_save "
        "single_blocks_to_swap double_blocks_to_swap discrete_flow_shift model_prediction_type timestep_sampling "
        "sigmoid_scale weighting_scheme logit_mean logit_std mode_scale enable_scaled_pos_embed "
        "pos_emb_random_crop_rate save_clip save_t5xxl gemma2 gemma2_max_token_length system_prompt use_flash_attn "
        "use_sage_attn train_blocks text_encoder byt5 attn_mode split_attn fp8_scaled fp8_vl text_encoder_cpu "
        "vae_chunk_size qwen3 llm_adapter_path t5_tokenizer_path qwen3_max_token_length t5_max_token_length "
        "vae_disable_cache unsloth_offload_checkpointing qwen_image_vae_2d show_timesteps show_timesteps_resolution "
        "compile compile_backend compile_mode compile_dynamic compile_fullgraph compile_cache_size_limit",
    )
)
