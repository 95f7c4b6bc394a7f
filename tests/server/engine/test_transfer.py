"""Arrays packed for one copy come out as they went in."""

import numpy as np
import pytest
import torch
from gistserve.server.engine.transfer import download, lay_out, upload

META = torch.device("meta")


def arrays():
    return [
        np.arange(5),
        np.arange(12, dtype=np.int32).reshape(3, 4)[:, 1:3],  # not contiguous
        np.zeros(0, dtype=np.int64),
        np.ones((2, 0), dtype=np.int32),
        np.array([[0.25], [0.5]], dtype=np.float32),
        np.array([0.1]),
    ]


def test_packed_and_unpacked():
    places, num_bytes = lay_out([(array.shape, array.dtype) for array in arrays()])
    host = np.full(num_bytes, 255, dtype=np.uint8)
    for array, place in zip(arrays(), places, strict=True):
        place.in_array(host)[...] = array
    packed = torch.from_numpy(host)
    for array, place in zip(arrays(), places, strict=True):
        tensor = place.in_tensor(packed)
        assert tensor.shape == array.shape and np.array_equal(tensor.numpy(), array)
        assert tensor.numpy().dtype == array.dtype
        assert tensor.data_ptr() % 8 == 0 and place.offset % 16 == 0
        assert tensor.numel() == 0 or tensor.untyped_storage().data_ptr() == packed.data_ptr()


def test_on_the_cpu_nothing_is_copied():
    values = np.arange(3)
    (tensor,) = upload([values], torch.device("cpu"))
    values[1] = 9
    assert tensor.tolist() == [0, 9, 2]
    (back,) = download([tensor])
    assert back.tolist() == [0, 9, 2]


def test_to_a_device_in_one_copy(monkeypatch):
    copies = []
    real = torch.Tensor.to

    def to(self, *args, **kwargs):
        copies.append((args, kwargs))
        return real(self, *args, **kwargs)

    monkeypatch.setattr(torch.Tensor, "to", to)
    found = upload(arrays(), META)
    assert copies == [((META,), {"non_blocking": True})]
    assert [(t.shape, t.device) for t in found] == [(a.shape, META) for a in arrays()]


def test_an_array_of_another_type_is_refused():
    with pytest.raises(KeyError):
        lay_out([((3,), np.int16)])


@pytest.mark.gpu
def test_there_and_back():
    device = torch.device("cuda")
    found = download(upload(arrays(), device))
    for array, back in zip(arrays(), found, strict=True):
        assert np.array_equal(array, back) and array.dtype == back.dtype
