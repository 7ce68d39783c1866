"""The formulas against what was published of real runs: utilisation, memory, traffic.

torchtitan: docs/performance.md (64 A100s, 2024) and benchmarks/llama3_h100_202412_torchtitan.md, tables 1 and 3.
llm-foundry: scripts/train/benchmarking/README.md. PaLM: Chowdhery et al. 2022, table 3 and appendix B. ZeRO:
Rajbhandari et al. 2020, figure 1 and table 1.
"""

from dataclasses import replace
from typing import Any

import pytest

from llmkit import recipe as recipes
from llmkit.planning.clusters.anatomy import Anatomy, anatomy
from llmkit.planning.clusters.gpus import cluster, named
from llmkit.planning.clusters.memory import Demand, held
from llmkit.planning.clusters.pace import mfu, operations, traffic
from llmkit.planning.settle import settle

GIB = 2**30
LLAMA_8B = {"hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
            "intermediate_size": 14336, "vocab_size": 128256, "max_position_embeddings": 8192,
            "tie_word_embeddings": False}
LLAMA_70B = {**LLAMA_8B, "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64,
             "intermediate_size": 28672}


def published(parameters: float, layers: int, attention: int) -> Anatomy:
    """A model of which no more is known."""
    whole = int(parameters)
    return Anatomy(parameters=whole, trained=whole, idle=0, held=0, layers=layers, layer=whole // layers,
                   multiplied=whole, width=attention, attention=attention, linear=0, normed=0, scores=0, vocabulary=0,
                   logits=0.0)


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("llama") / "text.txt"
    path.write_text("one line\n")

    def make(config: dict[str, Any]) -> Anatomy:
        return anatomy(settle(recipes.load({
            "backbone": {"family": "llama", "config": config}, "tokenizer": {"train": {"vocab_size": 128256}},
            "data": {"train": str(path), "max_length": 8192}, "objective": {"name": "causal_lm"},
            "training": {"max_steps": 1, "precision": "bf16", "micro_batch_size": 1}}), of_any_size=True))

    return make


@pytest.fixture(scope="module")
def llama_8b(llama: Any) -> Anatomy:
    return llama(LLAMA_8B)  # type: ignore[no-any-return]


def test_a_model_is_counted_without_its_weights(llama_8b: Anatomy) -> None:
    """Its card says 8.03 B; a layer by hand: q and o 4096², k and v 4096 x 1024, three of 4096 x 14336, two norms."""
    assert llama_8b.parameters == llama_8b.trained == 8_030_261_248
    assert llama_8b.layer == 2 * 4096**2 + 2 * 4096 * 1024 + 3 * 4096 * 14336 + 2 * 4096
    assert llama_8b.root == 2 * 128256 * 4096 + 4096
    assert (llama_8b.layers, llama_8b.attention, llama_8b.vocabulary) == (32, 4096, 128256)


def test_torchtitans_utilisation_follows_from_its_tokens_a_second(llama: Any, llama_8b: Anatomy) -> None:
    flops = named("A100").flops
    assert mfu(llama_8b, 8192, 2904, flops) == pytest.approx(0.568, rel=0.002)  # published: 56.8 %
    assert mfu(llama_8b, 8192, 2973, flops) == pytest.approx(0.582, rel=0.002)
    assert mfu(llama(LLAMA_70B), 8192, 331, flops) == pytest.approx(0.517, rel=0.002)


def test_palms_utilisation_follows_from_its_tokens_a_second() -> None:
    """540.35 B parameters, 118 layers, 48 heads of 256, rows of 2,048; 238.3 k tokens a second on 6,144 TPU v4."""
    palm = published(540.35e9, 118, 48 * 256)
    assert mfu(palm, 2048, 238_300 / 6144, 275e12) == pytest.approx(0.462, rel=0.002)


@pytest.mark.parametrize(("parameters", "layers", "width", "length", "speed", "gpu", "share"), [
    (64_862_437_376, 80, 8192, 2048, 1039, "H100", 0.4257), (29_975_214_080, 48, 7168, 2048, 2308, "H100", 0.4392),
    (12_853_954_560, 40, 5120, 2048, 4800, "H100", 0.3986), (6_658_859_008, 32, 4096, 2048, 10643, "H100", 0.4644),
    (6_784_688_128, 32, 4096, 32768, 3318, "H100", 0.3094), (1_315_950_592, 24, 2048, 2048, 45455, "H100", 0.4182),
    (12_853_954_560, 40, 5120, 2048, 2262, "A100", 0.5957), (125_311_488, 12, 768, 2048, 142830, "A100", 0.4479),
])
def test_llm_foundrys_utilisation_follows_from_its_tokens_a_second(
    parameters: int, layers: int, width: int, length: int, speed: float, gpu: str, share: float) -> None:
    found = mfu(published(parameters, layers, width), length, speed, named(gpu).flops)
    assert found == pytest.approx(share, rel=0.02)


def test_torchtitans_memory_from_8_to_128_gpus(llama_8b: Anatomy) -> None:
    """82.4 against 67.0 GiB, compiled 77.0 against 62.0: 15.4 and 15.0 GiB less a GPU."""
    load = Demand(rows=2, length=8192, states=2.0, gathers=2)
    on_8, on_128 = (held(llama_8b, load, "fsdp", cluster(f"{count}xH100")).total / GIB for count in (8, 128))
    assert on_8 - on_128 == pytest.approx(15.4, rel=0.10)
    assert on_8 - on_128 == pytest.approx(15.0, rel=0.10)


@pytest.mark.parametrize(("count", "gigabytes"), [(1, 120), (4, 30), (16, 7.5), (64, 1.88), (256, 0.47), (1024, 0.12)])
def test_zeros_states_of_7_5_billion_parameters(count: int, gigabytes: float) -> None:
    """Table 1 and figure 1, "P os+g+p": 16 bytes a parameter over so many GPUs."""
    model = published(7.5e9, 32, 4096)
    found = held(model, Demand(1, 1, 2.0), "fsdp" if count > 1 else "one", cluster(f"{count}xV100", per_machine=1))
    assert (found.weights + found.gradients + found.optimizer) / 1e9 == pytest.approx(gigabytes, rel=0.03)
    whole = held(model, Demand(1, 1, 2.0), "ddp", cluster(f"{count}xV100", per_machine=1))
    assert (whole.weights + whole.gradients + whole.optimizer) / 1e9 == 120


def test_full_shard_sends_half_as_much_again_as_ddp() -> None:
    """ZeRO, §7: 3 psi against 2 psi, in numbers of one size."""
    model, on = published(1e9, 10, 1000), cluster("64xH100")
    load = Demand(1, 1024, 2.0, bytes=4)
    sent = {way: traffic(model, load, way, on, 1, 1.0).bytes for way in ("ddp", "fsdp")}  # type: ignore[arg-type]
    assert sent["fsdp"] / sent["ddp"] == pytest.approx(1.5)
    assert sent["ddp"] == pytest.approx(2 * 63 / 64 * 4e9)


def test_torchtitans_traffic_hides_on_128_gpus_as_it_did(llama_8b: Anatomy) -> None:
    """5,762 tokens a second and GPU on 8, 5,605 on 128: 16,384 tokens took 2.84 s, and gathering hid."""
    load = Demand(rows=2, length=8192, states=2.0, gathers=2)
    assert traffic(llama_8b, load, "fsdp", cluster("128xH100"), 1, 16_384 / 5_762).hides
    slow = cluster("128xH100", bandwidth="10Gb/s")
    assert not traffic(llama_8b, load, "fsdp", slow, 1, 16_384 / 5_762).hides


def test_weights_that_dont_train_need_no_gradient_of_their_own(llama_8b: Anatomy) -> None:
    """4 N + 2 N of those that train; the rest is attention, which trains or not alike."""
    attention = 12 * 32 * 4096 * 2048
    assert operations(llama_8b, 2048) - attention == 6 * 8_030_261_248
    adapter = replace(llama_8b, trained=1_000_000)
    assert operations(adapter, 2048) - attention == 4 * 8_030_261_248 + 2 * 1_000_000
