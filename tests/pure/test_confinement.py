"""What a decoder process may ask of the kernel: everything but sockets."""

import struct

import pytest

from vzfs.confined.confinement import offline

X86_64, AARCH64, I386 = 0xC000003E, 0xC00000B7, 0x40000003
ALLOW, EPERM = 0x7FFF0000, 0x00050001


def verdict(program: bytes, machine: int, number: int) -> int:
    """Run a filter as the kernel does, on the call *number* of *machine*."""
    instructions = list(struct.iter_unpack("=HBBI", program))
    data = struct.pack("=II", number, machine)
    place = accumulator = 0
    while True:
        code, yes, no, k = instructions[place]
        place += 1
        match code:
            case 0x20:
                (accumulator,) = struct.unpack_from("=I", data, k)
            case 0x15:
                place += yes if accumulator == k else no
            case 0x35:
                place += yes if accumulator >= k else no
            case 0x06:
                return k
            case _:
                raise AssertionError(f"no such instruction: {code:#x}")


@pytest.mark.parametrize(
    ("machine", "name", "socket", "others"),
    [("x86_64", X86_64, 41, (0, 1, 9, 40, 42, 53, 424, 426)), ("aarch64", AARCH64, 198, (63, 64, 197, 199, 222))],
)  # fmt: skip
def test_nothing_that_makes_a_socket_is_allowed(
    machine: str, name: int, socket: int, others: tuple[int, ...]
) -> None:
    """socket(2) and io_uring_setup(2) fail with EPERM, as do calls by other conventions; others are as before."""
    program = offline(machine)

    for number in (socket, 425, 0x40000000 + socket, 0xFFFFFFFF):
        assert verdict(program, name, number) == EPERM
    for number in others:
        assert verdict(program, name, number) == ALLOW
    assert verdict(program, I386, 102) == EPERM


def test_a_machine_that_is_not_known_has_no_filter() -> None:
    """Where the numbers of calls are not known, none is refused."""
    assert offline("riscv64") == b""
