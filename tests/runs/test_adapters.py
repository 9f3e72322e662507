"""Adapters: only they train, they are exported alone, and merged they are the same network."""

from __future__ import annotations

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from unclip.cli import main
from unclip.common import artifacts
from unclip.common.adapters import A, AdapterConfig
from unclip.common.errors import UserError
from unclip.common.merging import merged
from unclip.config.load import load_experiment
from unclip.runs import init
from unclip.runs.parents import parents
from unclip.runs.train import assemble, train
from unclip.stages import registry
from unclip.training.adapters import inject, own_name, targets

STAGES = ("prior", "ar_prior", "decoder", "upsampler")
LORA = "adapter.kind=lora"


@pytest.fixture
def resolved(minute_experiment, cascade, tmp_path):
    """A minute experiment of a kind that adapts the stage of the cascade."""

    def resolved(kind, *overrides, folder="run", base=None):
        given = [f"run.dir={tmp_path / folder}", f"init={base or cascade / kind}"]
        given += [f"clip={cascade / 'clip'}"] * (kind not in ("clip", "upsampler"))
        given += [f"pca={cascade / 'pca'}"] * (kind == "ar_prior")
        return load_experiment(str(minute_experiment(kind)), [*given, *overrides])

    return resolved


@pytest.fixture
def adapted(resolved):
    """The stage that would be trained."""

    def adapted(kind, *overrides):
        wanted = resolved(kind, LORA, *overrides)
        return assemble(wanted, parents(wanted)._replace(init=init.find(wanted))).stage

    return adapted


def loaded(kind, folder, cascade):
    clip = registry.STAGES["clip"].load(cascade / "clip")
    return registry.STAGES[artifacts.describe(folder).stage].load(folder, clip).net


@pytest.mark.parametrize("kind", STAGES)
def test_only_the_adapter_trains_and_changes_nothing_at_first(adapted, cascade, kind):
    stage = adapted(kind)
    names = [name for name, p in stage.net.named_parameters() if p.requires_grad]
    assert names
    assert all(own_name(name) for name in names)
    plain = artifacts.describe(cascade / kind).weights()
    for net in (stage.net, stage.ema):
        for name, tensor in net.state_dict().items():
            if own_name(name) is None:
                assert torch.equal(tensor, plain[name.replace(".base_layer.", ".")]), name
            elif name.endswith("lora_B.default.weight"):
                assert not tensor.any()
    assert all(torch.equal(a, b) for a, b in zip(stage.net.parameters(), stage.ema.parameters()))


@pytest.mark.parametrize("kind", STAGES)
def test_a_trained_adapter_is_small_and_merged_it_is_the_network_that_was_trained(
    resolved, cascade, monkeypatch, kind
):
    stages = []
    real = assemble

    def spy(*args, **kwargs):
        stages.append(real(*args, **kwargs))
        return stages[-1]

    monkeypatch.setattr("unclip.runs.train.assemble", spy)
    given = ["optim.lr=0.05", "adapter.rank=2", "adapter.alpha=3", "ema.decay=0.1"]
    finished = train(resolved(kind, LORA, *given))
    found = artifacts.describe(finished.artifact)
    base = artifacts.describe(cascade / kind)
    assert all(".lora_" in name for name in found.weights())
    assert found.provenance["parents"]["init"] == base.sha256
    net = loaded(kind, finished.artifact, cascade)
    trained = stages[0].stage.ema.eval()
    from peft.tuners.lora import LoraLayer

    changed = 0
    for name, module in trained.named_modules():
        if isinstance(module, LoraLayer):
            delta = module.get_delta_weight("default")
            own = net.get_submodule(name).weight
            assert torch.allclose(own, module.base_layer.weight + delta, atol=1e-6)
            changed += bool(delta.abs().max() > 1e-4)
    assert changed > 0


def test_a_gradient_step_of_full_rank_is_one_of_the_weights_themselves():
    """With A orthonormal and B zero, a step of B moves W by -lr G AᵀA = -lr G."""
    torch.manual_seed(0)
    x, y = torch.randn(7, 5, dtype=torch.float64), torch.randn(7, 3, dtype=torch.float64)
    whole = nn.Sequential(nn.Linear(5, 3)).double()
    adapter = nn.Sequential(nn.Linear(5, 3)).double()
    adapter.load_state_dict(whole.state_dict())
    inject(adapter, AdapterConfig(kind="lora", rank=5, targets=["0"]))
    layer = adapter[0]
    with torch.no_grad():
        layer.lora_A["default"].weight.copy_(torch.linalg.qr(torch.randn(5, 5).double())[0])
    adapter = adapter.double()
    for net in (whole, adapter):
        (net(x) - y).square().mean().backward()
    moved = whole[0].weight.detach() - 0.1 * whole[0].weight.grad
    with torch.no_grad():
        layer.lora_B["default"].weight.sub_(0.1 * layer.lora_B["default"].weight.grad)
    own = {own_name(n): t for n, t in adapter.state_dict().items() if own_name(n)}
    found = merged({"0.weight": whole[0].weight.detach()}, own, 1.0)["0.weight"]
    assert torch.allclose(found, moved, atol=1e-6)


def test_an_adapter_counts_alpha_over_rank_times():
    assert AdapterConfig(kind="lora", rank=2, alpha=3.0).scale == 1.5
    assert AdapterConfig(kind="lora", rank=2).scale == 1.0


@pytest.mark.parametrize("shape", [(6, 4), (6, 4, 1, 1), (6, 4, 3, 3)])
def test_merged_weights_are_those_of_the_two_maps_one_after_the_other(shape):
    torch.manual_seed(1)
    a, b = torch.randn(2, *shape[1:]), torch.randn(6, 2, *(1,) * (len(shape) - 2))
    w = torch.randn(shape)
    whole = merged({"x.weight": w}, {"x.lora_A.weight": a, "x.lora_B.weight": b}, 0.5)["x.weight"]
    x = torch.randn(3, 4, *(8,) * (len(shape) - 2))
    f = nn.functional.linear if len(shape) == 2 else nn.functional.conv2d
    assert torch.allclose(f(x, whole), f(x, w) + 0.5 * f(f(x, a), b), atol=1e-4)


@pytest.mark.parametrize(
    ("own", "line"),
    [
        ({"x.lora_A.weight": torch.ones(2, 4)}, "has no lora_B"),
        ({"x.lora_B.weight": torch.ones(6, 2)}, "lacks its other half"),
        ({"x.lora_A.weight": torch.ones(2, 5), "x.lora_B.weight": torch.ones(6, 2)}, "do not fit"),
        ({"x.lora_A.weight": torch.ones(2, 4), "x.lora_B.weight": torch.ones(6, 3)}, "do not fit"),
        ({"y.lora_A.weight": torch.ones(2, 4), "y.lora_B.weight": torch.ones(6, 2)}, "in the base"),
        ({"x.weight": torch.ones(6, 4)}, "is not a weight of an adapter"),
        ({"x.lora_A.weight": torch.ones(0, 4), "x.lora_B.weight": torch.ones(6, 0)}, "do not fit"),
        ({"x.lora_A.weight": torch.ones(2, 4), "x.lora_B.weight": torch.ones(6)}, "do not fit"),
        (
            {"x.lora_A.weight": torch.ones(2, 4), "x.lora_B.weight": torch.ones(6, 2).int()},
            r"A \[2, 4\] of float32 and B \[6, 2\] of int32 do not fit",
        ),
    ],
)
def test_a_damaged_adapter_is_refused_by_name(own, line):
    with pytest.raises(ValueError, match=line):
        merged({"x.weight": torch.zeros(6, 4)}, own, 1.0)


@pytest.mark.slow
def test_a_resumed_adapter_has_the_same_bits(resolved, tmp_path):
    given = [LORA, "adapter.dropout=0.2", "optim.lr=0.05", "optim.name=muon"]
    whole = train(resolved("decoder", *given, "trainer.max_steps=4", folder="whole"))
    train(resolved("decoder", *given, "trainer.max_steps=2", folder="parts"))
    parts = train(resolved("decoder", *given, "trainer.max_steps=4", folder="parts"), resume=True)
    one, two = (artifacts.describe(f.artifact).weights() for f in (whole, parts))
    assert one.keys() == two.keys()
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_checkpoints_hold_the_adapter_alone_and_refuse_another_base(resolved, cascade, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(cascade / "upsampler", base)
    given = [LORA, "optim.lr=0.05"]
    train(resolved("upsampler", *given, "trainer.max_steps=2", folder="runs/parts", base=base))
    (file,) = (tmp_path / "runs/parts/checkpoints/step_0000002").glob("*.safetensors")
    names = [name for name in load_file(file) if name.startswith("net.")]
    assert names
    assert all(own_name(name) for name in names)
    away = tmp_path / "away"
    base.rename(away)
    longer = resolved("upsampler", LORA, "trainer.max_steps=4", folder="runs/parts", base=base)
    shutil.copytree(cascade / "decoder", tmp_path / "runs/init")
    with pytest.raises(UserError, match=r"^--resume: .* needs the weights \w+ that it began from"):
        train(longer, resume=True)
    shutil.rmtree(tmp_path / "runs/init")
    shutil.copytree(away / "artifact", tmp_path / "runs/init")  # found beside the run as well
    parts = train(longer, resume=True)
    whole = train(resolved("upsampler", *given, "trainer.max_steps=4", folder="whole"))
    one, two = (artifacts.describe(f.artifact).weights() for f in (whole, parts))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_network_and_average_share_what_does_not_train(adapted):
    stage = adapted("decoder")
    ours, average = dict(stage.net.named_parameters()), dict(stage.ema.named_parameters())
    for name, parameter in ours.items():
        assert (average[name] is parameter) is (own_name(name) is None), name


def test_an_adapter_finds_its_base_beside_it_and_refuses_another(resolved, cascade, tmp_path):
    base = tmp_path / "base"
    shutil.copytree(cascade / "upsampler", base)
    finished = train(resolved("upsampler", LORA, base=base))
    loaded("upsampler", finished.artifact, cascade)
    base.rename(tmp_path / "away")
    with pytest.raises(UserError, match="which are neither in") as caught:
        loaded("upsampler", finished.artifact, cascade)
    assert "\n" not in str(caught.value)
    shutil.copytree(cascade / "decoder", tmp_path / "init")
    with pytest.raises(UserError, match="which are neither in"):
        loaded("upsampler", finished.artifact, cascade)
    shutil.rmtree(tmp_path / "init")
    (tmp_path / "away").rename(tmp_path / "init")
    loaded("upsampler", finished.artifact, cascade)


def test_patterns_choose_the_layers(adapted):
    stage = adapted("decoder", "adapter.targets=['*.qkv', 'z_i_to_time']")
    names = {own_name(n).rpartition(".lora_")[0] for n in stage.weights()}
    assert names
    assert all(n.endswith(".qkv") or n == "z_i_to_time" for n in names)
    with pytest.raises(UserError, match="names no linear or convolutional layer"):
        targets(nn.Sequential(nn.Linear(2, 2)), ["nothing"])


@pytest.mark.parametrize("damage", [{}, {"parents": 3, "init": [1]}, {"parents": {"init": 7}}])
def test_a_provenance_that_names_no_base_is_one_line(resolved, cascade, damage):
    folder = train(resolved("upsampler", LORA)).artifact
    (folder / "provenance.json").write_text(json.dumps(damage))
    with pytest.raises(UserError, match="is an adapter of the weights None, which are neither"):
        loaded("upsampler", folder, cascade)


@pytest.mark.parametrize(
    ("overrides", "line"),
    [
        (["adapter.rank=4"], "has no effect without adapter.kind=lora"),
        ([LORA], "needs init"),
        ([LORA, "init=x", "adapter.rank=0"], "must be at least 1"),
        ([LORA, "init=x", "adapter.targets=[]"], "no pattern"),
        ([LORA, "init=x", "init_skip=[unet.*]"], "none can begin anew"),
        (["adapter.kind=dora"], "must be one of none, lora"),
    ],
)
def test_settings_that_cannot_be_are_refused(minute_experiment, overrides, line):
    with pytest.raises(UserError, match=line):
        load_experiment(str(minute_experiment("decoder")), overrides)


def test_a_rank_beyond_every_layer_is_refused(resolved):
    with pytest.raises(UserError, match=r"^adapter\.rank: must be at most \d+, of its widest"):
        train(resolved("upsampler", LORA, "adapter.rank=5000"))


def test_a_clip_has_no_adapter(minute_experiment):
    with pytest.raises(UserError, match="adapter"):
        load_experiment(str(minute_experiment("clip")), [LORA])


def test_an_adapter_of_an_adapter_is_refused(resolved, cascade):
    finished = train(resolved("upsampler", LORA))
    with pytest.raises(UserError, match="is an adapter; `unclip merge"):
        train(resolved("upsampler", LORA, base=finished.artifact, folder="second"))


def test_merged_weights_are_an_artifact_of_their_own(resolved, cascade, tmp_path, capsys):
    finished = train(resolved("upsampler", LORA, "optim.lr=0.05"))
    assert main(["merge", str(finished.artifact), "--out", str(tmp_path / "whole")]) == 0
    one = loaded("upsampler", finished.artifact, cascade).state_dict()
    two = loaded("upsampler", tmp_path / "whole", cascade).state_dict()
    assert all(torch.equal(one[name], two[name]) for name in one)
    again = train(resolved("upsampler", base=tmp_path / "whole", folder="again"))
    assert artifacts.describe(again.artifact).adapter is None


def test_several_adapters_add_up_by_their_weights(resolved, cascade, tmp_path):
    runs = [
        train(resolved("upsampler", LORA, f"trainer.seed={k}", "optim.lr=0.05", folder=f"run{k}"))
        for k in (1, 2)
    ]
    words = [f"{runs[0].artifact}:0.5", f"{runs[1].artifact}:-2"]
    assert main(["merge", *words, "--out", str(tmp_path / "both")]) == 0
    base = artifacts.describe(cascade / "upsampler").weights()
    one, two = (loaded("upsampler", run.artifact, cascade).state_dict() for run in runs)
    for name, tensor in artifacts.describe(tmp_path / "both").weights().items():
        wanted = base[name] + 0.5 * (one[name] - base[name]) - 2 * (two[name] - base[name])
        assert torch.allclose(tensor, wanted, atol=1e-5), name


def changed(adapter, to, *, weights=lambda found: found, config=lambda found: found):
    """A copy of an adapter with other weights and config, that is whole."""
    found = artifacts.describe(adapter)
    return artifacts.export(
        to,
        stage=found.stage,
        weights=weights(found.weights()),
        config=config(found.config),
        provenance=found.provenance,
        clip_fingerprint=found.clip_fingerprint,
    ).path


def test_what_cannot_be_merged_is_one_line(resolved, cascade, tmp_path, capsys):
    first = train(resolved("upsampler", LORA)).artifact
    other = changed(
        first,
        tmp_path / "other",
        weights=lambda found: {name: 2 * tensor for name, tensor in found.items()},
        config=lambda found: {**found, "diffusion": {**found["diffusion"], "prediction": "x0"}},
    )
    whole = train(resolved("upsampler", folder="whole")).artifact
    second = train(resolved("upsampler", LORA, base=whole, folder="second")).artifact
    for words, line in (
        ([whole], "has whole weights"),
        ([first, second], "merge adapters of one base"),
        ([first, f"{first}:2"], f"{first}: is given twice; {first}:2 counts it twice"),
        ([first, other], "merge adapters that were trained with the same"),
        ([f"{first}:half"], "is not a number"),
        ([f"{first}:nan"], "must be a finite number"),
        ([tmp_path / "nowhere"], "no such artifact"),
    ):
        assert main(["merge", *map(str, words), "--out", str(tmp_path / "out")]) == 2
        assert line in capsys.readouterr().err.strip().splitlines()[-1]
        assert not (tmp_path / "out").exists()


def test_peft_itself_reads_an_export_and_computes_the_same(resolved, cascade, tmp_path, capsys):
    from peft import PeftModel

    finished = train(resolved("upsampler", LORA, "optim.lr=0.05", "adapter.alpha=3"))
    words = ["export", str(finished.artifact), "--to", "peft", "--out", str(tmp_path / "peft")]
    assert main(words) == 0
    assert main(words) == 2
    assert main([*words, "--force"]) == 0
    half = changed(
        finished.artifact,
        tmp_path / "half",
        weights=lambda found: {name: t for name, t in found.items() if name.endswith(A)},
    )
    capsys.readouterr()
    assert main(["export", str(half), "--to", "peft", "--out", str(tmp_path / "no")]) == 2
    assert "has no lora_B.weight" in capsys.readouterr().err
    inside = str(finished.artifact / "peft")
    assert main(["export", str(finished.artifact), "--to", "peft", "--out", inside]) == 2
    assert "lies within an input" in capsys.readouterr().err
    assert not (tmp_path / "no").exists()
    wrapped = PeftModel.from_pretrained(
        loaded("upsampler", cascade / "upsampler", cascade), str(tmp_path / "peft")
    )
    theirs = wrapped.merge_and_unload().state_dict()
    for name, tensor in loaded("upsampler", finished.artifact, cascade).state_dict().items():
        assert torch.allclose(theirs[name], tensor, atol=1e-6), name
