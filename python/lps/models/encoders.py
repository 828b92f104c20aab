"""Encoders of tokens from timm and transformers, with weights by name, from a path, or random."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor, nn


@contextlib.contextmanager
def loading(encoder: str | Path, fault: str = "could not be loaded") -> Iterator[None]:
    """Whatever timm and transformers raise for unknown names, hubs out of reach, other weights, as one ValueError."""
    try:
        yield
    except Exception as error:
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise ValueError(f"encoder: {str(encoder)!r} {fault}: {reason}") from error


@torch.no_grad()
def try_out(encoder: nn.Module) -> None:
    """Raise where the encoder does not take as many tokens as it says, or returns others than it says."""
    modes = {module: module.training for module in encoder.modules()}
    zeros = next(encoder.parameters()).new_zeros(1, encoder.tokens, encoder.width_in)
    tokens, pooled = encoder.eval()(zeros)
    for module, mode in modes.items():
        module.training = mode
    wanted, got = ((1, encoder.tokens, encoder.width), (1, encoder.width)), (tuple(tokens.shape), tuple(pooled.shape))
    if got != wanted:
        raise ValueError(f"expected tokens and a pooled one of shapes {wanted}, got {got}")


class Given(nn.Module):
    """In the place of timm's patch embedding: tokens as they come, or in a grid for models of images of any size."""

    def __init__(self, embedding: nn.Module, spread: bool) -> None:
        super().__init__()
        self.grid_size, self.spread = embedding.grid_size, spread

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens.unflatten(1, self.grid_size) if self.spread else tokens


class VisionEncoder(nn.Module):
    """Any timm ViT or BEiT, without its patch embedding and its classifier.

    Arguments:
        encoder: the model's name, such as "vit_tiny_patch16_224", "hf_hub:timm/vit_base_patch16_224.augreg_in21k".
        pretrained: with its published weights, which are looked up by name.
        weights: with those of this file, a checkpoint of the same model.
        patch_dropout: of the tokens of each image, while training; pooled tokens only, see `TokenModel`.
        encoder_options: more arguments for timm.create_model, such as {"drop_path_rate": 0.1}.
    """

    def __init__(
        self,
        encoder: str = "vit_tiny_patch16_224",
        pretrained: bool = False,
        weights: str | Path | None = None,
        patch_dropout: float = 0.0,
        encoder_options: dict | None = None,
    ) -> None:
        super().__init__()
        import timm

        if not 0 <= patch_dropout < 1:
            raise ValueError(f"patch_dropout: expected at least 0 and less than 1, got {patch_dropout}")
        if weights is not None and not Path(weights).is_file():
            raise ValueError(f"weights: expected a file, got {str(weights)!r}")
        options = {"pretrained": pretrained or weights is not None, **(encoder_options or {})}
        if weights is not None:
            options["pretrained_cfg_overlay"] = {"file": str(weights)}
        with loading(encoder):
            model = timm.create_model(encoder, **options)
        parts = ("patch_embed", "blocks", "num_prefix_tokens")
        if not all(hasattr(model, name) for name in parts) or not hasattr(model.patch_embed, "grid_size"):
            raise ValueError(f"encoder: expected a ViT or a BEiT, got {encoder!r}")
        model.reset_classifier(0)  # only now: timm would take weights of any model for one without a classifier
        self.tokens, self.width = model.patch_embed.num_patches, model.num_features
        self.width_in = self.width
        self.keeps_tokens = patch_dropout == 0
        self.relative = hasattr(model, "rel_pos_bias")
        self.patch_dropout = patch_dropout
        model.patch_embed = Given(model.patch_embed, getattr(model, "dynamic_img_size", False))
        if patch_dropout and not self.relative:
            if not isinstance(getattr(model, "patch_drop", None), nn.Identity):  # where it would do nothing, or break
                raise ValueError(f"patch_dropout: expected 0 for an encoder without a place for it, {encoder!r}")
            model.patch_drop = timm.layers.PatchDropout(patch_dropout, model.num_prefix_tokens)
        self.model = model
        with loading(encoder, "is no ViT or BEiT of timm's kind"):
            try_out(self)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(m, tokens, width) -> all tokens after the encoder, and the pooled one (m, width)."""
        drops = self.relative and self.training and self.patch_dropout
        y = self._relative_with_dropout(tokens) if drops else self.model.forward_features(tokens)
        return y[:, self.model.num_prefix_tokens :], self.model.forward_head(y, pre_logits=True)

    def _relative_with_dropout(self, tokens: Tensor) -> Tensor:
        """BEiT on some of the tokens: its biases belong to pairs of places, so the others are masked, not cut out."""
        model, first = self.model, self.model.num_prefix_tokens
        m, count, _ = tokens.shape
        kept = max(1, int(count * (1 - self.patch_dropout)))
        keep = torch.rand(m, count, device=tokens.device).argsort(-1)[:, :kept]
        keep = torch.cat((torch.arange(first, device=keep.device).expand(m, first), keep + first), 1)
        x = torch.cat((model.cls_token.expand(m, -1, -1), tokens), 1)
        x = model.pos_drop(x if model.pos_embed is None else x + model.pos_embed)
        mask = x.new_full((m, x.shape[1]), -math.inf).scatter(1, keep, 0)[:, None, None]
        bias = mask if model.rel_pos_bias is None else model.rel_pos_bias() + mask
        for block in model.blocks:
            x = block(x, shared_rel_pos_bias=bias)
        return model.norm(x).gather(1, keep[..., None].expand(-1, -1, x.shape[-1]))


class LanguageEncoder(nn.Module):
    """Any encoder of transformers that takes inputs_embeds, without its word embedding.

    A causal decoder, such as GPT-2, is taken as it is: there a token sees those before it only.

    Arguments:
        encoder: a name or a local folder, for transformers.AutoModel.
        pretrained: with its weights; else only its configuration is used.
        tokens: how many it is handed; by default the largest square number that it has positions for.
    """

    keeps_tokens = True

    def __init__(self, encoder: str | Path, pretrained: bool = True, tokens: int | None = None) -> None:
        super().__init__()
        from transformers import AutoConfig, AutoModel

        with loading(encoder):
            if pretrained:
                model = AutoModel.from_pretrained(encoder).float()
            else:
                model = AutoModel.from_config(AutoConfig.from_pretrained(encoder))
        config = model.config
        model = model.get_encoder() if config.is_encoder_decoder else model
        longest = getattr(config, "max_position_embeddings", -1)
        longest = None if longest is None or longest < 0 else longest
        if longest is None and tokens is None:
            raise ValueError("tokens: expected a number of tokens for an encoder that names no largest one")
        padding = getattr(getattr(model, "embeddings", None), "padding_idx", None)
        if longest is not None and padding is not None:
            longest -= padding + 1  # RoBERTa and its kin count positions from there
        self.tokens = math.isqrt(longest) ** 2 if tokens is None else tokens
        if longest is not None and self.tokens > longest:
            raise ValueError(f"tokens: expected at most {longest} for this encoder, got {tokens}")
        self.model = model
        with loading(encoder, "is no encoder that takes embeddings of tokens"):
            self.width_in, self.width = model.get_input_embeddings().weight.shape[1], config.hidden_size
            model.set_input_embeddings(nn.Identity())
            try_out(self)

    def forward(self, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """(m, tokens, width_in) -> (m, tokens, width) and the pooled one, or their mean where it pools none."""
        out = self.model(inputs_embeds=tokens)
        pooled = getattr(out, "pooler_output", None)
        return out.last_hidden_state, out.last_hidden_state.mean(1) if pooled is None else pooled
