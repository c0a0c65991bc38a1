"""PyTorch's names are the canonical ones; its count of batches is left out."""

from models.layout_torch import named_buffers, named_parameters
from models.resnet_torch import ResNet
from models.specs import ResNetSpec


def test_tensors_are_the_models_own():
    model = ResNet(ResNetSpec(10, num_classes=3, image_size=32, width=4))
    parameters, buffers = named_parameters(model), named_buffers(model)
    assert parameters["layer2.0.downsample.0.weight"] is model.layer2[0].downsample[0].weight
    assert buffers["layer4.0.bn2.running_var"] is model.layer4[0].bn2.running_var
    left_out = set(model.state_dict()) - set(parameters) - set(buffers)
    assert left_out
    assert all(name.endswith("num_batches_tracked") for name in left_out)
