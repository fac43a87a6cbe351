"""The layer mechanism: removing, reading, seeding."""

from collections.abc import Sequence

import pytest
import torch
from made import create_model
from torch import nn

from cnntrain.nn import stages
from cnntrain.nn.blocks import conv, dense, linear, pooling
from cnntrain.nn.composite import Add, Concat
from cnntrain.nn.shapes import shape_after
from cnntrain.nn.stages import BuildOptions, Maker, StageError, assemble, record, stage_shapes, tail, walk

SHAPE = (3, 16, 16)


def makers() -> dict[str, Maker]:
    return {
        "conv1": conv(8, 3, padding=1, norm=True),
        "pool1": pooling("max", 2),
        "conv2": conv(12, 3, activation="tanh"),
        "fc3": dense(20, dropout=0.5),
        "fc4": linear(5),
    }


def build(remove: Sequence[str] = (), seed: int = 0) -> nn.Sequential:
    return assemble(makers(), SHAPE, out_shape=(5,), build=BuildOptions(seed=seed, remove=list(remove)))


@pytest.mark.parametrize("remove", [[], ["conv1"], ["pool1"], ["conv2"], ["fc3"], ["conv1", "pool1"], ["conv2", "fc3"]])
def test_a_variant_builds_forwards_and_sends_a_gradient_into_every_parameter(remove: list[str]) -> None:
    net = build(remove)
    assert [name for name, _ in net.named_children()] == [name for name in makers() if name not in remove]
    net(torch.randn(4, *SHAPE)).square().sum().backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
        assert parameter.grad.any(), name


class Keywords(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = nn.functional.relu(input=x)
        return x[:, :1].add(other=x) + x[:, :1]


@pytest.mark.parametrize(
    "stage",
    [
        Keywords(),
        nn.Conv2d(3, 4, 3, stride=2, padding=1, device="meta"),
        nn.Conv2d(3, 6, (5, 3), padding="same", dilation=(2, 3), groups=3, device="meta"),
        nn.Conv2d(4, 4, 3, device="meta"),
        nn.Conv2d(3, 4, 12, device="meta"),
        nn.Linear(8, 5, device="meta"),
        nn.Linear(9, 5, bias=False, device="meta"),
        nn.MaxPool2d(3, stride=2, ceil_mode=True),
        nn.MaxPool2d(3, padding=2),
        nn.AvgPool2d((2, 3), padding=1),
        nn.AvgPool2d(12),
        nn.AdaptiveAvgPool2d((None, 3)),
        nn.Sequential(nn.BatchNorm2d(3, device="meta"), nn.GELU(), nn.Dropout(), nn.Flatten()),
        Add(one=nn.Conv2d(3, 3, 3, padding=1, device="meta"), two=nn.Tanh()),
        Concat(one=nn.Sigmoid(), two=nn.AvgPool2d(1)),
    ],
    ids=str,
)
def test_shapes_are_those_of_torchs_own_pass_on_the_meta_device(stage: nn.Module) -> None:
    def by_torch() -> tuple[int, ...]:
        with torch.no_grad():
            return tuple(stage.eval()(torch.empty(2, 3, 9, 8, device="meta")).shape[1:])

    try:
        expected = by_torch()
    except RuntimeError as error:
        with pytest.raises(RuntimeError) as refusal:
            shape_after(stage, (3, 9, 8))
        assert str(refusal.value) == str(error)
    else:
        assert shape_after(stage, (3, 9, 8)) == expected


def test_survivors_of_the_same_shape_start_equal_and_seeds_differ() -> None:
    whole, variant, other = build().state_dict(), build(["conv2"]).state_dict(), build(seed=1).state_dict()
    assert torch.equal(whole["conv1.conv.weight"], variant["conv1.conv.weight"])
    assert torch.equal(whole["fc4.linear.weight"], variant["fc4.linear.weight"])
    assert whole["fc3.linear.weight"].shape != variant["fc3.linear.weight"].shape
    assert not torch.equal(whole["conv1.conv.weight"], other["conv1.conv.weight"])


def test_removing_a_residual_block_leaves_the_weights_of_the_block_that_grows_a_projection() -> None:
    whole = create_model("resnet20", (3, 32, 32), 10, shortcut="B").state_dict()
    variant = create_model("resnet20", (3, 32, 32), 10, shortcut="B", remove=["block2_1"]).state_dict()
    assert "block2_2.skip.conv.weight" in variant and "block2_2.skip.conv.weight" not in whole
    assert torch.equal(whole["block2_2.main.conv2.weight"], variant["block2_2.main.conv2.weight"])


def test_building_leaves_the_random_stream_of_the_caller_alone() -> None:
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build()
    assert torch.equal(torch.rand(3), expected)


def test_initial_values_have_the_spread_of_torchs_own_initialisation() -> None:
    weight = assemble({"fc1": linear(400)}, (300,), out_shape=(400,)).state_dict()["fc1.linear.weight"]
    bound = 300**-0.5
    assert weight.abs().max() <= bound
    assert abs(float(weight.std()) - bound / 3**0.5) < 0.01 * bound


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (["cnv1"], "'cnv1'.*'conv1'"),
        (["fc4"], "'fc4'"),
    ],
)
def test_what_cannot_be_removed_is_refused_with_the_reason(remove: list[str], message: str) -> None:
    with pytest.raises(StageError, match=message):
        build(remove)


def test_kept_stages_shapes_groups_and_sizes_are_guarded() -> None:
    with pytest.raises(StageError, match="stages around it"):
        assemble(makers(), SHAPE, out_shape=(5,), keep=["conv2"], build=BuildOptions(remove=["conv2"]))
    with pytest.raises(StageError, match="5, not 6"):
        assemble(makers(), SHAPE, out_shape=(6,))
    with pytest.raises(StageError, match="3 channels .*2 groups .*groups=1"):
        assemble({"conv1": conv(8, 3, groups=2), "fc": linear(5)}, SHAPE, out_shape=(5,))
    with pytest.raises(StageError, match="'type'"):
        assemble({"type": linear(5)}, SHAPE, out_shape=(5,))
    with pytest.raises(StageError, match="'conv2'.*Kernel size"):
        assemble(makers(), (3, 4, 4), out_shape=(5,))


def test_a_stage_too_large_to_be_trained_is_refused_before_it_has_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "MOST_PARAMETERS", 5_000)
    with pytest.raises(StageError, match="'fc3'.* 8,660 .* 5,000"):
        build()
    assert assemble(makers(), SHAPE, out_shape=(5,), build=BuildOptions(device="meta"))


def test_refusals_of_the_faithful_lenet() -> None:
    with pytest.raises(StageError, match="conv3.* map 5, 1 "):
        create_model("lenet5_1998", (1, 28, 28), 10, remove=["conv1"])
    with pytest.raises(StageError, match="rbf.* 84 .*120"):
        create_model("lenet5_1998", (1, 28, 28), 10, remove=["fc6"])


def test_narrowing_with_shortcut_a_is_refused_naming_b() -> None:
    from cnntrain.nn.residual import basic_block

    with pytest.raises(StageError, match="shortcut=A .*8 channels to 4.*shortcut=B"):
        assemble({"block": basic_block(4), "fc": linear(5)}, (8, 8, 8), out_shape=(5,))


def test_a_leaf_without_reset_parameters_is_an_error() -> None:
    class Own(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.empty(3))

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * self.weight

    with pytest.raises(TypeError, match="reset_parameters"):
        assemble({"own": lambda shape: Own()}, (3,), out_shape=(3,))


def test_walk_and_tail_agree_with_the_whole_network() -> None:
    net, x = build().eval(), torch.randn(2, *SHAPE)
    activations = dict(walk(net, x))
    assert torch.equal(activations["fc4"], net(x))
    assert torch.equal(tail(net, "pool1")(activations["pool1"]), net(x))
    assert [name for name, _ in walk(net, x, upto="conv2")] == ["conv1", "pool1", "conv2"]
    assert tail(net, "conv1").training is False
    with pytest.raises(StageError, match="'conv3'.*'conv[12]'"):
        list(walk(net, x, upto="conv3"))
    with pytest.raises(TypeError, match="DataParallel"):
        list(walk(nn.DataParallel(net), x))  # type: ignore[arg-type]


def test_record_keeps_a_copy_of_what_leaves_a_module_inside_a_block() -> None:
    net = create_model("resnet20", (3, 32, 32), 10).eval()
    with record(net, ["block1_1.main.norm2", "block1_1"]) as kept:
        net(torch.randn(2, 3, 32, 32))
    assert (kept["block1_1.main.norm2"] < 0).any()
    assert (kept["block1_1"] >= 0).all()
    with pytest.raises(RuntimeError, match="ran twice"), record(net, ["conv1"]):
        net(torch.randn(2, 3, 32, 32))
        net(torch.randn(2, 3, 32, 32))
    with pytest.raises(StageError, match="conv7"), record(net, ["conv7"]):
        pass
    assert not net.conv1._forward_hooks  # type: ignore[union-attr]


def test_composites_add_and_join_their_branches() -> None:
    x = torch.randn(2, 3, 5, 5)
    one, two = nn.Conv2d(3, 3, 1), nn.Identity()
    assert torch.equal(Add(main=one, skip=two)(x), one(x) + x)
    assert torch.equal(Add(main=one, skip=two, after=nn.ReLU())(x), (one(x) + x).relu())
    assert torch.equal(Concat(one=one, two=two)(x), torch.cat([one(x), x], dim=1))
    with pytest.raises(ValueError, match="3×5×5, 1×5×5"):
        Add(main=one, skip=nn.Conv2d(3, 1, 1)).to("meta")(x.to("meta"))


def test_pool_none_keeps_the_shapes() -> None:
    nets = {kind: create_model("lenet5", (1, 28, 28), 10, pool=kind) for kind in ("max", "avg", "none")}
    shapes = {kind: stage_shapes(net, (1, 28, 28)) for kind, net in nets.items()}
    assert shapes["max"] == shapes["avg"] == shapes["none"]


def test_a_wider_stage_gives_more_maps_and_what_follows_fits() -> None:
    net = create_model("alexnet", (3, 32, 32), 10, widen={"conv2": 1.5, "fc6": 0.5}, device="meta")
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert shapes["conv2.conv.weight"] == (384, 48, 5, 5) and shapes["conv3.conv.weight"] == (384, 384, 3, 3)
    assert shapes["fc6.linear.weight"] == (2048, 256) and shapes["fc7.linear.weight"] == (4096, 2048)


def test_a_stage_without_a_width_is_not_widened() -> None:
    for name, reason in (("pool1", "no width"), ("fc5", "no width"), ("fc9", "the stages"), ("conv1", "unknown")):
        with pytest.raises(StageError, match=reason):
            create_model("lenet5", (1, 28, 28), 10, widen={name: 2.0}, remove=["conv1"], device="meta")


def test_survivors_of_a_widened_network_start_with_the_same_weights() -> None:
    plain, wide = (create_model("lenet5", (1, 28, 28), 10, widen=widen) for widen in ({}, {"fc3": 2.0}))
    one, other = plain.state_dict(), wide.state_dict()
    equal = {name for name in one if one[name].shape == other[name].shape and torch.equal(one[name], other[name])}
    assert equal == {name for name in one if not name.startswith(("fc3", "fc4"))}
