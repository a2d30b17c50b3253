"""Kohya's keys of the network to the trainer's settings."""

from __future__ import annotations

from ..settings.options import AdapterSettings
from .values import Arguments, Fields, Keys, argument_number, note_idle, whole_argument

LYCORIS_MODULE = "lycoris.kohya"
NETWORKS = {"networks.lora": "lora", "networks.loha": "loha", "networks.lokr": "lokr", LYCORIS_MODULE: ""}
LYCORIS = {"lora": "lora", "locon": "lora", "loha": "loha", "lokr": "lokr"}
# the only preset of LyCORIS that adapts the layers which sd-scripts' own LoRA adapts
LYCORIS_PRESET = "attn-mlp"
_NO_CONVOLUTION = f"LyCORIS' preset={LYCORIS_PRESET} adapts no convolution"
_FOR_LOKR = "only LyCORIS' algo=lokr reads it"
_FOR_OFT = "only LyCORIS' algo=diag-oft and algo=boft read it"
# network_args of LyCORIS that change nothing with its only preset here; sd-scripts' own networks look at none of them
_IDLE_IN_LYCORIS = {
    **dict.fromkeys(("conv_dim", "conv_alpha"), _NO_CONVOLUTION),
    **dict.fromkeys(("use_tucker", "use_cp", "use_conv_cp", "disable_conv_cp"), _NO_CONVOLUTION),
    "dropout": "LyCORIS drops inner values only with bypass_mode",
    "constraint": _FOR_OFT,
    "rescaled": _FOR_OFT,
    "block_size": "only LyCORIS' algo=dylora reads it",
    "rank_dropout_scale": "LyCORIS does not read it from sd-scripts",
    "train_t5xxl": "SDXL has no T5",
}
_LOKR_ONLY = ("factor", "decompose_both", "full_matrix", "unbalanced_factorization")
_LYCORIS_ONLY = (
    "algo", "preset", "dora_wd", "wd_on_output", *_LOKR_ONLY[1:], "use_scalar", "train_norm", "bypass_mode", "rs_lora",
    "dropout", "rank_dropout_scale", "use_cp", "use_conv_cp", "disable_conv_cp", "constraint", "rescaled", "block_size",
    "train_t5xxl",
)  # fmt: skip


def network_module(keys: Keys) -> str:
    """sd-scripts' module of the network, one of ``NETWORKS``."""
    return keys.choice("network_module", "networks.lora", NETWORKS)


def read_network(keys: Keys, arguments: Arguments) -> Fields:
    """Rank, alpha, adapter and trained parts. ``arguments``: network_args, of which what is read is taken out."""
    module = network_module(keys)
    lycoris = module == LYCORIS_MODULE
    kind = _lycoris(keys, arguments) if lycoris else NETWORKS[module]
    if not lycoris:
        unread = [*_LYCORIS_ONLY, *(["use_tucker"] if kind == "lora" else []), *(["factor"] if kind != "lokr" else [])]
        note_idle(keys, arguments, dict.fromkeys(unread, f"{module} does not read it"))
    adapter: Fields = {"kind": kind, **_dropouts(keys, arguments, module, kind), **_convolutions(keys, arguments)}
    if kind == "lokr":
        adapter["lokr_factor"] = whole_argument(keys, arguments, "factor", -1)
    if lycoris and _dora(keys, arguments):
        adapter["dora"] = kind == "lora"
        if kind != "lora":
            keys.refuse("network_args", f"dora_wd=True is not done for {kind} here; remove it, or take algo=lora")
    rank = keys.whole("network_dim", 4)
    return {
        "rank": rank,
        # 0 is sd-scripts' and LyCORIS' way to write the rank
        "alpha": keys.number("network_alpha", 1.0) or float(rank),
        "train": "unet" if keys.flag("network_train_unet_only") else "unet+text",
        "adapter": AdapterSettings(**adapter),  # type: ignore[arg-type]
    }


def _lycoris(keys: Keys, arguments: Arguments) -> str:
    """The kind of adapter; arguments that change nothing are noted."""
    algorithm, preset = arguments.pop("algo", "lora").lower(), arguments.pop("preset", "full")
    if algorithm not in LYCORIS:
        keys.refuse("network_args", f"LyCORIS' algo={algorithm} is not trained here; take {', '.join(LYCORIS)}")
    elif preset != LYCORIS_PRESET:
        cure = f"write preset={LYCORIS_PRESET}"
        keys.refuse("network_args", f"LyCORIS' preset={preset} adapts other layers than this trainer; {cure}")
    else:
        note_idle(keys, arguments, _IDLE_IN_LYCORIS)
        if algorithm != "lokr":
            note_idle(keys, arguments, dict.fromkeys(_LOKR_ONLY, _FOR_LOKR))
    return LYCORIS.get(algorithm, "lora")


def _dropouts(keys: Keys, arguments: Arguments, module: str, kind: str) -> Fields:
    out: Fields = {name: argument_number(keys, arguments, name, 0.0) for name in ("rank_dropout", "module_dropout")}
    if module == LYCORIS_MODULE and out["rank_dropout"]:
        why = "LyCORIS leaves out outputs and does not scale the rest up, which is not done here"
        keys.refuse("network_args", f"rank_dropout: {why}; remove it, or take sd-scripts' own networks")
    dropout = keys.number("network_dropout", 0.0)
    if module == LYCORIS_MODULE:
        keys.idle_for(_IDLE_IN_LYCORIS["dropout"], "network_dropout")
    elif kind != "lora":
        keys.idle_for(f"{module} does not use it", "network_dropout")
    else:
        out["dropout"] = dropout
    return out


def _convolutions(keys: Keys, arguments: Arguments) -> Fields:
    if "conv_dim" not in arguments:
        note_idle(keys, arguments, {"conv_alpha": "conv_dim is not given"})
        return {}
    rank, alpha = whole_argument(keys, arguments, "conv_dim", 1), argument_number(keys, arguments, "conv_alpha", 1.0)
    if rank == 0:
        # sd-scripts adapts what else the residual blocks have as soon as conv_dim is there
        keys.refuse("network_args", "conv_dim=0 adapts residual blocks without their 3×3 convolutions; remove it")
        return {}
    return {"conv_rank": rank, "conv_alpha": alpha or float(rank)}


def _dora(keys: Keys, arguments: Arguments) -> bool:
    if arguments.pop("dora_wd", "false").lower() == "false":
        note_idle(keys, arguments, {"wd_on_output": "dora_wd is off"})
        return False
    if arguments.pop("wd_on_output", "true").lower() == "false":
        keys.refuse("network_args", "wd_on_output=False: the magnitudes are those of outputs here; remove it")
    return True
