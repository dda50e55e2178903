"""GPUs of the machine, with a made-up driver."""

import ctypes
from types import SimpleNamespace

import pytest

from m2d_export.errors import RuntimeUnavailable
from m2d_export.host.gpu import Gpu, first_gpu, gpus


class Driver:
    """The five functions of libcuda that the package calls, for cards of compute capability 9.0."""

    def __init__(self, cards: list[str], code: int = 0) -> None:
        self.cards, self.code = cards, code

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return self.code

    def cuDeviceGetCount(self, count: object) -> int:  # noqa: N802
        count._obj.value = len(self.cards)
        return 0

    def cuDeviceGet(self, device: object, place: int) -> int:  # noqa: N802
        device._obj.value = place
        return 0

    def cuDeviceGetName(self, name: ctypes.Array, length: int, device: ctypes.c_int) -> int:  # noqa: N802
        name.value = self.cards[device.value].encode()[: length - 1]
        return 0

    def cuDeviceGetAttribute(self, value: object, attribute: int, device: ctypes.c_int) -> int:  # noqa: N802
        value._obj.value = {75: 9, 76: 0}[attribute]
        return 0


def with_driver(monkeypatch: pytest.MonkeyPatch, driver: object) -> None:
    monkeypatch.setattr("m2d_export.host.gpu.ctypes", SimpleNamespace(**{**vars(ctypes), "CDLL": lambda name: driver}))


def test_each_card_has_its_name_and_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    with_driver(monkeypatch, Driver(["NVIDIA H100", "NVIDIA H200"]))
    assert gpus() == (Gpu("NVIDIA H100", "sm90"), Gpu("NVIDIA H200", "sm90"))
    assert first_gpu("this", "try that").name == "NVIDIA H100"


@pytest.mark.parametrize("driver", [Driver([]), Driver(["NVIDIA H100"], code=100)], ids=["no card", "no device"])
def test_without_a_card_the_error_says_what_to_do_instead(monkeypatch: pytest.MonkeyPatch, driver: Driver) -> None:
    with_driver(monkeypatch, driver)
    with pytest.raises(RuntimeUnavailable, match="try that"):
        first_gpu("this", "try that")


def test_without_a_driver_there_is_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("m2d_export.host.gpu.DRIVER", "libnothing-of-that-name.so.1")
    assert gpus() == ()
