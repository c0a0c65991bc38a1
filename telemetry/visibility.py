"""Which of a host's GPUs a process may use, by CUDA_VISIBLE_DEVICES."""

from collections.abc import Mapping, Sequence

from telemetry.samples import Device


def visible(devices: Sequence[Device], environment: Mapping[str, str]) -> list[bool | None]:
    """For each device whether CUDA shows it; None where that does not follow from the variables.

    Items are UUIDs, which may be cut short, or CUDA's own numbers. Those are NVML's where CUDA_DEVICE_ORDER is
    PCI_BUS_ID or all GPUs are of one kind: by default CUDA puts the fastest first (CUDA C++ Programming Guide,
    CUDA environment variables). CUDA ignores all from the first item on that names no device.
    """
    chosen = environment.get("CUDA_VISIBLE_DEVICES")
    gpus = [device for device in devices if device.parent_uuid is None]
    if chosen is None:
        return [True] * len(devices)
    names = {gpu.name for gpu in gpus}
    ordered = len(names) <= 1 or environment.get("CUDA_DEVICE_ORDER") == "PCI_BUS_ID"
    shown: set[str] = set()
    for item in map(str.strip, chosen.split(",")):
        if item.isdecimal() and int(item) < len(gpus):
            if not ordered:
                return [None] * len(devices)
            shown.add(gpus[int(item)].uuid)
            continue
        named = [
            device.uuid
            for device in devices
            if item.startswith(("GPU-", "MIG-")) and device.uuid.startswith(item)
        ]
        if len(named) != 1:
            break
        shown.add(named[0])
    return [device.uuid in shown or device.parent_uuid in shown for device in devices]
