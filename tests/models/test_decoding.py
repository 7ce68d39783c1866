"""How a model of the catalogue writes where nothing is said, also one that an older llmkit unpacked."""

import pytest
from transformers import GenerationConfig

from llmkit.models import CATALOGUE
from llmkit.models.wheel import write_as_today

ENTRY = CATALOGUE["smollm2-135m-instruct"]
NAMES = ("do_sample", "temperature", "top_p", "repetition_penalty")


def test_a_model_of_an_older_llmkit_writes_as_the_catalogue_says() -> None:
    config = GenerationConfig(repetition_penalty=1.2, eos_token_id=2)
    write_as_today(config, ENTRY)
    assert {name: value for name in NAMES if (value := getattr(config, name))} == dict(ENTRY.decoding)
    assert config.eos_token_id == 2


@pytest.mark.parametrize("own", [
    {"repetition_penalty": 1.3}, {"repetition_penalty": 1.2, "do_sample": True, "temperature": 0.9}, {}], ids=range(3))
def test_what_somebody_else_set_stays(own: dict[str, float]) -> None:
    config, same = GenerationConfig(**own), GenerationConfig(**own)
    write_as_today(config, ENTRY)
    assert config.to_dict() == same.to_dict()
