"""A configuration and its data → the catalogue that the model reads: texts, captions, images."""

from __future__ import annotations

from transformers import AutoImageProcessor, PreTrainedTokenizerBase

from reranker.config import TrialConfig
from reranker.data.assemble import RerankingData
from reranker.data.images.item_images import ItemImages
from reranker.data.item_token_cache import Catalogue
from reranker.errors import Fault, InputError
from reranker.modeling.images.captions import have_captions
from reranker.modeling.images.image_inputs import ImageInputs
from reranker.modeling.model_loading import check_reads, describe, from_pretrained, load_tokenizer


def item_catalogue(
    config: TrialConfig, data: RerankingData, tokenizer: PreTrainedTokenizerBase | None = None
) -> Catalogue:
    """The items as the model reads them.

    Args:
        tokenizer: the model's; None: it is loaded.

    Raises:
        InputError: the tokenizer does not know the items' words, or data or model lack what the image mode needs.
        EnvironmentFault: the model or the caption model is not available.
    """
    data.check_images(config.image_mode)
    if config.image_mode == "caption":
        have_captions(data)
    tokenizer = tokenizer or load_tokenizer(config.model)
    images = data.interactions.images if config.image_mode == "raw_image" else None
    inputs = None if images is None else image_inputs(config, tokenizer, images)
    catalogue = Catalogue(tokenizer, data.item_texts(config), inputs)
    catalogue.check(config.model)
    return catalogue


def image_inputs(config: TrialConfig, tokenizer: PreTrainedTokenizerBase, images: ItemImages) -> ImageInputs:
    """These images for the configuration's model.

    Raises:
        InputError: it reads no images, or its tokenizer lacks their tokens.
        EnvironmentFault: it is not available.
    """
    described = describe(config.model)
    check_reads(config, described)
    ids = [described.vision_start_token_id, described.image_token_id, described.vision_end_token_id]
    mark = "".join(str(token) for token in tokenizer.convert_ids_to_tokens(ids))
    if tokenizer(mark, add_special_tokens=False)["input_ids"] != ids:
        rule = "the model's tokenizer must have the tokens of images that its configuration names"
        raise InputError([Fault(rule, field="model", value=config.model)])
    processor = from_pretrained(AutoImageProcessor, config.model, backend="pil")
    return ImageInputs(images, processor, mark, described.image_token_id, config.max_image_pixels)
