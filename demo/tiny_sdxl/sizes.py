"""Sizes of the tiny SDXL: everything else about it is SDXL's own."""

MODEL_CHANNELS = 64
CHANNEL_MULT = (1, 1, 2)
TRANSFORMER_DEPTH = (0, 1, 1)
HEAD_CHANNELS = 32
TEXT_WIDTH = 16
TEXT_LAYERS = 3
CONTEXT_DIM = 2 * TEXT_WIDTH
ADM_IN_CHANNELS = TEXT_WIDTH + 6 * 256
LATENT_SCALE = 0.13025
TEXT_CONFIG = {
    "hidden_size": TEXT_WIDTH,
    "intermediate_size": 4 * TEXT_WIDTH,
    "num_attention_heads": 1,
    "num_hidden_layers": TEXT_LAYERS,
    "projection_dim": TEXT_WIDTH,
}
