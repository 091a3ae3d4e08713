"""The U-Net: shapes, state, and that a gate does what its docstring says."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from vidseg.unet import Gate, UNet  # noqa: E402


def make(**arguments):
    torch.manual_seed(3)
    return UNet((8, 8, 16), 8, **arguments).eval()


def test_logits_have_the_size_of_the_picture_and_as_many_channels_as_asked_for():
    logits, state = make(outputs=3)(torch.randn(2, 3, 32, 48))
    assert logits.shape == (2, 3, 32, 48)
    assert state == ()


@pytest.mark.parametrize("gates", [1, 2])
def test_states_are_as_it_says(gates):
    net = make(gates=gates)
    _, state = net(torch.randn(2, 3, 32, 48))
    assert [tuple(s.shape) for s in state] == [(2, c, 32 // s, 48 // s) for c, s in net.states]
    assert net.states == ((8, 8), (4, 4))[:gates]


def test_no_state_is_a_state_of_zeros():
    net = make(gates=2)
    src = torch.randn(1, 3, 32, 48)
    _, state = net(src)
    torch.testing.assert_close(net(src)[0], net(src, tuple(torch.zeros_like(s) for s in state))[0])


def test_a_gate_moves_half_of_its_channels_from_the_state_to_the_input():
    gate = Gate(4)
    x, before = torch.rand(1, 4, 5, 6), torch.rand(1, 2, 5, 6)
    for bias, expected in ((-100.0, x[:, 2:]), (100.0, before), (0.0, (x[:, 2:] + before) / 2)):
        torch.nn.init.constant_(gate.gate.bias, bias)
        y, held = gate(x, before)
        torch.testing.assert_close(y[:, :2], x[:, :2])
        torch.testing.assert_close(held, expected)
        torch.testing.assert_close(y[:, 2:], held)


def test_the_state_reaches_the_alpha():
    net = make(gates=2)
    for gate in net.gates:
        torch.nn.init.zeros_(gate.gate.bias)
    src = torch.randn(1, 3, 32, 48)
    first, state = net(src)
    assert not torch.allclose(first, net(src, state)[0])


def test_too_many_gates():
    with pytest.raises(ValueError, match="gates = 3"):
        make(gates=3)
