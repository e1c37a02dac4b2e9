from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import AddedToken, Tokenizer
from tokenizers.models import WordLevel
from torch import Tensor
from transformers import InternVLForConditionalGeneration

from babelrs.errors import BabelRSError
from tests.train.models.vlms import VOCABULARY, conversation, packed, random_csia, random_images, random_vlm, vlm_config
from train.models.vlm import LayerwiseInternVL
from train.models.vlm_build import Vocabulary, build_vlm, load_vlm, read_vocabulary, save_vlm
from train.vlm_config import VLMConfig


def published(folder: Path, tied: bool = True) -> InternVLForConditionalGeneration:
    """A small InternVL as others would save it: all blocks, nothing of ours, an output head of its own or not."""
    model = random_vlm(seed=1, merge="last", text={**vlm_config().text.model_dump(), "tied": tied})
    config = model.config
    del config.tapping
    theirs: Any = InternVLForConditionalGeneration(config).eval()
    theirs.load_state_dict({n: t for n, t in model.state_dict().items() if n != "model.lvsa_step"})
    theirs.save_pretrained(folder)
    return theirs


def given(folder: Path, **changes: Any) -> VLMConfig:
    fields = {"name": str(folder), "taps": (1, 2, 4), "tau": 10, "merge": "lvsa"}
    return VLMConfig.model_validate({**fields, **changes})


def test_a_tokenizers_vocabulary_is_read() -> None:
    tokenizer = Tokenizer(WordLevel({"[PAD]": 0, "a": 1}, unk_token="[PAD]"))
    tokenizer.add_special_tokens([AddedToken(t, special=True) for t in ("<img>", "<IMG_CONTEXT>", "</img>", "[END]")])
    assert read_vocabulary(tokenizer.get_vocab(), end="[END]", pad="[PAD]") == Vocabulary(6, 3, 5, 0)


def test_a_tokenizer_without_the_image_tokens_is_refused_with_all_that_it_lacks() -> None:
    with pytest.raises(BabelRSError) as caught:
        read_vocabulary({"<img>": 0, "[PAD]": 1}, end="[END]", pad="[PAD]")
    assert all(token in str(caught.value) for token in ("<IMG_CONTEXT>", "</img>", "[END]"))
    assert "- <img>" not in str(caught.value) and "[PAD]" not in str(caught.value)


def test_the_1b_configuration_has_the_published_number_of_parameters() -> None:
    """InternVit-300M, a projector 4096-896-896, and Qwen2.5-0.5B with a head of its own; counted by hand."""
    with torch.device("meta"):
        model = build_vlm(VLMConfig(name="internvl_1b"), Vocabulary(151_674, 151_667, 151_645, 151_643))
    projector = 2 * 4096 + 4096 * 896 + 896 + 896 * 896 + 896
    block = 2 * 896 * 896 + 896 + 2 * (896 * 128 + 128) + 3 * 896 * 4864 + 2 * 896
    language = 24 * block + 2 * 151_674 * 896 + 896
    assert sum(p.numel() for p in model.parameters()) == 304_012_288 + projector + language == 938_193_024
    assert model.tapping.taps == (3, 9, 18, 24)


def test_the_tiny_configuration_has_a_few_million_parameters() -> None:
    model = build_vlm(VLMConfig(), Vocabulary(2000, 3, 1, 0))
    assert 1e6 < sum(p.numel() for p in model.parameters()) < 5e6
    assert model.training and model.lvsa_step == 0


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("merge", ["last", "sum", "lvsa", "per_layer"])
def test_a_local_folder_gives_the_published_model(tmp_path: Path, merge: str, tied: bool) -> None:
    theirs = published(tmp_path, tied)
    model = build_vlm(given(tmp_path, merge=merge), VOCABULARY).eval()
    assert model.lvsa_step == 0 and model.dtype == torch.float32
    own = model.state_dict()
    assert all(torch.equal(own[name], tensor) for name, tensor in theirs.state_dict().items())
    images = random_images(2, 0)
    with torch.no_grad():
        wanted = theirs.get_image_features(images).pooler_output
        found = model.get_image_features(images).pooler_output
    assert (model.lm_head.weight is model.model.language_model.embed_tokens.weight) == tied
    same = torch.allclose(found, wanted, rtol=0, atol=1e-5)
    assert same == (merge in ("last", "lvsa"))  # at step 0, LVSA reads the last layer alone
    if merge == "per_layer":
        for projector in model.model.other_projectors:
            for one, other in zip(projector.parameters(), model.model.multi_modal_projector.parameters(), strict=True):
                assert torch.equal(one, other)


def test_concatenation_begins_with_a_projector_of_its_own(tmp_path: Path) -> None:
    published(tmp_path)
    model = build_vlm(given(tmp_path, merge="concat"), VOCABULARY)
    projector = model.model.multi_modal_projector
    assert projector.linear_1.weight.shape == (24, 3 * 4 * 16)
    assert 0.001 < projector.linear_1.weight.std() < 1 and torch.equal(projector.layer_norm.weight, torch.ones(192))


def test_published_weights_are_cut_after_the_last_tap(tmp_path: Path) -> None:
    theirs = published(tmp_path)
    model = build_vlm(given(tmp_path, merge="last", taps=(1, 3)), VOCABULARY).eval()
    images = random_images(1, 3)
    with torch.no_grad():
        wanted = theirs.model.vision_tower(images, output_hidden_states=True).hidden_states[3]
        found = model.model.tapped(images)[0][-1]
    torch.testing.assert_close(found, wanted[:, 1:], rtol=0, atol=1e-5)
    assert (model.tapping.depth, len(model.model.vision_tower.encoder.layer)) == (4, 3)


@pytest.mark.parametrize("origin", ["scratch", "published"])
@pytest.mark.parametrize("merge", ["lvsa", "concat", "per_layer"])
def test_a_saved_model_comes_back_with_its_step(tmp_path: Path, merge: str, origin: str) -> None:
    if origin == "published":
        published(tmp_path / "theirs")
        model = build_vlm(given(tmp_path / "theirs", merge=merge), VOCABULARY)
    else:
        model = random_vlm(seed=5, merge=merge, taps=(1, 3))
    model.lvsa_step = 7
    save_vlm(model, tmp_path / "own")
    again = load_vlm(tmp_path / "own")
    assert again.lvsa_step == 7 and again.tapping == model.tapping and not again.training
    assert again.merge_weights() == model.merge_weights()
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(tensor, model.state_dict()[name]) for name, tensor in again.state_dict().items())


def test_the_step_is_part_of_the_state_of_a_run() -> None:
    one, other = random_csia(seed=1), random_csia(seed=2)
    one.vlm.lvsa_step = 4
    other.load_state_dict(one.state_dict())
    batch = (*packed([conversation(15, 1, 5, 0)]), random_images(1, 0), 1)
    assert other.vlm.lvsa_step == 4
    assert torch.equal(one(*batch).total, other(*batch).total)
    other.vlm.lvsa_step = 5
    assert not torch.equal(one(*batch).total, other(*batch).total)
    assert one.to(torch.bfloat16).vlm.model.lvsa_step.dtype == torch.int64


def test_the_same_seed_gives_the_same_weights() -> None:
    def weights(seed: int) -> list[Tensor]:
        torch.manual_seed(seed)
        return list(build_vlm(vlm_config(), VOCABULARY).parameters())

    one, again, other = weights(1), weights(1), weights(2)
    assert all(torch.equal(a, b) for a, b in zip(one, again, strict=True))
    assert not torch.equal(one[0], other[0]) or not torch.equal(one[2], other[2])


class TestBadInput:
    def test_a_folder_of_another_model(self, tmp_path: Path) -> None:
        (tmp_path / "config.json").write_text(json.dumps({"model_type": "internvl_chat"}))
        with pytest.raises(BabelRSError, match=r"no InternVL: its config\.json says model_type 'internvl_chat'"):
            build_vlm(given(tmp_path), VOCABULARY)

    @pytest.mark.parametrize("content", [None, "{", "[]"])
    def test_a_folder_without_a_readable_configuration(self, tmp_path: Path, content: str | None) -> None:
        if content is not None:
            (tmp_path / "config.json").write_text(content)
        with pytest.raises(BabelRSError, match=r"holds no readable config\.json"):
            build_vlm(given(tmp_path), VOCABULARY)

    def test_a_folder_without_weights(self, tmp_path: Path) -> None:
        published(tmp_path)
        (tmp_path / "model.safetensors").unlink()
        with pytest.raises(BabelRSError, match="cannot be read"):
            build_vlm(given(tmp_path), VOCABULARY)

    def test_a_name_that_is_neither_folder_nor_hub_model(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # the tests ask no hub
        with pytest.raises(BabelRSError, match="no such folder cannot be read"):
            build_vlm(given(Path("no such folder")), VOCABULARY)

    def test_weights_with_parts_missing(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        published(tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        gone = next(name for name in weights if "layer.2.mlp.fc1.weight" in name)
        del weights[gone]
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(BabelRSError, match=r"missing .*layer\.2\.mlp\.fc1\.weight"):
            build_vlm(given(tmp_path), VOCABULARY)

    def test_a_tap_beyond_the_depth_of_the_weights(self, tmp_path: Path) -> None:
        published(tmp_path)
        with pytest.raises(BabelRSError, match=r"taps \[1, 5\] do not fit 4 blocks"):
            build_vlm(given(tmp_path, taps=(1, 5)), VOCABULARY)

    def test_a_vision_tower_that_ends_in_a_normalisation(self, tmp_path: Path) -> None:
        published(tmp_path)
        file = tmp_path / "config.json"
        config = json.loads(file.read_text())
        config["vision_config"]["use_mean_pooling"] = False
        file.write_text(json.dumps(config))
        with pytest.raises(BabelRSError, match="ends in a normalisation"):
            build_vlm(given(tmp_path), VOCABULARY)

    def test_a_tokenizer_of_another_model(self, tmp_path: Path) -> None:
        published(tmp_path)
        with pytest.raises(BabelRSError) as caught:
            build_vlm(given(tmp_path), Vocabulary(size=99, image_context=8, end=1, pad=0))
        assert "the tokenizer has 99 tokens, the model 61" in str(caught.value)
        assert "<IMG_CONTEXT> is token 8, in the model 3" in str(caught.value)

    def test_a_plain_internvl_is_no_pretraining(self, tmp_path: Path) -> None:
        published(tmp_path)
        with pytest.raises(BabelRSError, match="does not say which layers are tapped"):
            load_vlm(tmp_path)

    def test_a_saved_model_with_parts_missing(self, tmp_path: Path) -> None:
        from safetensors.torch import load_file, save_file

        save_vlm(random_vlm(), tmp_path)
        weights = load_file(tmp_path / "model.safetensors")
        del weights["model.lvsa_step"]
        save_file(weights, tmp_path / "model.safetensors", {"format": "pt"})
        with pytest.raises(BabelRSError, match=r"missing model\.lvsa_step"):
            load_vlm(tmp_path)


def test_the_model_is_transformers_own() -> None:
    assert isinstance(random_vlm(), InternVLForConditionalGeneration)
    assert isinstance(random_vlm(), LayerwiseInternVL)
