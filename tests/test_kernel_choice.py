"""Which kernel runs a layer, with how many threads and what memory, and what is said where there is none."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from recurrent_twins import NATIVE, torch_threads, twins
from torch import Tensor, nn

from data.errors import SettingsError
from lstm import kernels
from lstm.kernels import dispatch, library, memory, native


def test_an_unknown_kernel_is_refused() -> None:
    with pytest.raises(ValueError, match="fastest"), kernels.using("fastest"):  # type: ignore[arg-type]
        pass


@NATIVE
def test_too_little_memory_is_an_error_that_names_the_shapes() -> None:
    module = kernels.LSTM(1, 2048, batch_first=True)
    x = torch.zeros(1, 1, 1).expand(4096, 100_000, 1)
    with (
        kernels.using("native"),
        pytest.raises(MemoryError, match=r"batch 4096, 100000 steps.*smaller"),
    ):
        module.last(x)


@NATIVE
def test_memory_is_used_again_and_never_while_it_is_in_use(monkeypatch: pytest.MonkeyPatch) -> None:
    # What other tests left could fit better.
    monkeypatch.setattr(memory, "_free", [])
    monkeypatch.setattr(memory, "_returned", deque())
    first = memory.take(1_000_000)
    at = first.data_ptr()
    second = memory.take(1_000_000)
    assert second.data_ptr() != at
    view = first[10:20]
    del first
    third = memory.take(1_000_000)
    assert third.data_ptr() != at, "a view still holds it"
    del view
    assert memory.take(900_000).data_ptr() == at


@NATIVE
def test_threads_and_their_number_change_nothing_but_the_last_bits() -> None:
    """The same number of threads gives the same bits."""
    ours, _ = twins("lstm", 5, 33, batch_first=True)
    x = torch.randn(70, 40, 5)

    def gradient(threads: int) -> Tensor:
        ours.zero_grad()
        with kernels.using("native"), torch_threads(threads):
            ours(x)[0].square().sum().backward()
        assert ours.weight_hh_l0.grad is not None
        return ours.weight_hh_l0.grad.clone()

    assert torch.equal(gradient(2), gradient(2))
    torch.testing.assert_close(gradient(1), gradient(3), rtol=1e-5, atol=1e-4)


def test_fewer_threads_than_one_are_refused() -> None:
    with pytest.raises(ValueError, match="0 threads"):
        kernels.set_threads(0)
    assert not native.has_own_threads()


@pytest.mark.parametrize(
    ("batch", "threads", "plan"),
    [
        (16, 1, (16, 1)),
        (64, 1, (16, 2)),
        (32, 2, (16, 1)),
        (16, 2, (8, 1)),
        # Vectors of 2 and 1 are done sooner than of 1 and 1 + 1; of 2 + 2 and 2 later than of three each.
        (40, 2, (16, 2)),
        (96, 2, (16, 1)),
        (256, 2, (16, 2)),
    ],
)
def test_rows_walk_in_twos_unless_a_thread_would_wait(
    monkeypatch: pytest.MonkeyPatch, batch: int, threads: int, plan: tuple[int, int]
) -> None:
    monkeypatch.setattr(library, "_widths", (16, 8))
    assert native.plan(batch, threads) == plan


@given(st.integers(1, 600), st.integers(1, 9))
def test_no_other_plan_has_a_shorter_longest_share(batch: int, threads: int) -> None:
    lanes, together = native.plan(batch, threads)
    vectors = -(-batch // lanes)

    def longest(pairs: bool) -> float:
        blocks = [2] * (vectors // 2) + [1] * (vectors % 2) if pairs else [1] * vectors
        count = min(threads, len(blocks))
        bounds = [len(blocks) * i // count for i in range(count + 1)]
        shares = [blocks[first:last] for first, last in itertools.pairwise(bounds)]
        return max(sum(native._TWO_VECTORS if block == 2 else 1 for block in share) for share in shares)

    assert longest(together == 2) <= longest(together == 1) + 1e-9


@NATIVE
def test_threads_may_change_between_forward_and_backward() -> None:
    ours, theirs = twins("lstm", 5, 33, batch_first=True)
    x = torch.randn(70, 40, 5)
    with kernels.using("native"), torch_threads(3):
        loss = ours(x)[0].square().sum()
    with torch_threads(1):
        loss.backward()
    theirs(x)[0].square().sum().backward()
    torch.testing.assert_close(ours.weight_hh_l0.grad, theirs.weight_hh_l0.grad, rtol=1e-4, atol=1e-4)


@NATIVE
def test_beside_several_threads_of_torchs_the_native_kernel_takes_long_batches_and_small_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "shares_threads", lambda: False)
    module, small = (kernels.LSTM(1, size, batch_first=True) for size in (17, 16))
    short, long, narrow = torch.zeros(64, 24, 1), torch.zeros(64, 1000, 1), torch.zeros(16, 1000, 1)
    with torch_threads(2):
        assert dispatch.choose(module, short) is None
        assert dispatch.choose(small, short) is native.layer
        assert dispatch.choose(small, short[:2]) is None
        assert dispatch.choose(module, long) is native.layer
        assert dispatch.choose(module, narrow) is native.layer
        with torch.inference_mode():
            assert dispatch.choose(module, long) is native.layer
            assert dispatch.choose(module, narrow) is None
        try:
            kernels.set_threads(2)
            assert dispatch.choose(module, short) is native.layer
        finally:
            kernels.set_threads(None)


@NATIVE
def test_on_several_threads_of_torchs_the_native_kernel_takes_many_rows_and_narrow_layers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "shares_threads", lambda: True)
    monkeypatch.setattr(library, "is_intel", lambda: True)
    wide, middle, narrow, small = (kernels.LSTM(1, size, batch_first=True) for size in (129, 128, 32, 16))
    with torch_threads(2):
        assert dispatch.choose(middle, torch.zeros(64, 1, 1)) is native.layer
        assert dispatch.choose(wide, torch.zeros(63, 1000, 1)) is None
        assert dispatch.choose(middle, torch.zeros(16, 1000, 1)) is native.layer
        assert dispatch.choose(middle, torch.zeros(16, 168, 1)) is None
        assert dispatch.choose(wide, torch.zeros(64, 24, 1)) is None
        assert dispatch.choose(wide, torch.zeros(64, 168, 1)) is native.layer
        assert dispatch.choose(narrow, torch.zeros(8, 1, 1)) is native.layer
        assert dispatch.choose(narrow, torch.zeros(7, 1000, 1)) is None
        assert dispatch.choose(small, torch.zeros(4, 1, 1)) is native.layer
        assert dispatch.choose(small, torch.zeros(3, 1000, 1)) is None
        with torch.inference_mode():
            assert dispatch.choose(middle, torch.zeros(16, 1000, 1)) is None
            assert dispatch.choose(middle, torch.zeros(64, 24, 1)) is native.layer
            assert dispatch.choose(wide, torch.zeros(64, 24, 1)) is None
            assert dispatch.choose(wide, torch.zeros(64, 168, 1)) is native.layer
        monkeypatch.setattr(library, "is_intel", lambda: False)
        assert dispatch.choose(wide, torch.zeros(32, 24, 1)) is native.layer
        assert dispatch.choose(wide, torch.zeros(31, 24, 1)) is None


@NATIVE
@pytest.mark.parametrize("present", [1, 2, 5])
def test_a_borrowed_team_of_any_size_does_all_the_work(present: int) -> None:
    """OpenMP gives what threads it has, which may be fewer than were asked for."""
    asked = []
    work = ctypes.CFUNCTYPE(None, ctypes.c_void_p)

    @ctypes.CFUNCTYPE(None, work, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)
    def team(run: Callable[[int], None], data: int, threads: int, flags: int) -> None:
        asked.append(threads)
        for _ in range(present):
            run(data)

    ours, theirs = twins("gru", 5, 33, batch_first=True)
    x = torch.randn(70, 200, 5)
    code = library.compiled()
    code.nightcast_borrow(team)
    try:
        with kernels.using("native"), torch_threads(3):
            ours(x)[0].square().sum().backward()
    finally:
        code.nightcast_borrow(library._team())
    theirs(x)[0].square().sum().backward()
    assert asked == [3, 3]
    torch.testing.assert_close(ours.weight_hh_l0.grad, theirs.weight_hh_l0.grad, rtol=1e-4, atol=1e-4)


@NATIVE
@pytest.mark.skipif(not library.shares_threads(), reason="torch has another OpenMP than GNU's")
def test_the_team_is_torchs_own() -> None:
    """While the kernel runs beside torch on two threads, no thread is there that torch did not have alone."""
    script = """
import threading, torch
from pathlib import Path
from lstm import kernels
from lstm.kernels import library
def threads():
    return set(Path("/proc/self/task").iterdir())
def threads_of_the_kernel():
    is_over, seen = threading.Event(), set()
    def watch():
        while not is_over.is_set():
            seen.update(threads())
    watcher = threading.Thread(target=watch)
    watcher.start()
    before = threads()
    layer = kernels.LSTM(8, 64, batch_first=True)
    with kernels.using("native"):
        layer(torch.randn(256, 100, 8))[0].sum().backward()
    is_over.set()
    watcher.join()
    return len(seen - before)
torch.set_num_threads(2)
torch.randn(999, 999) @ torch.randn(999, 999)
print(threads_of_the_kernel())
library.load().nightcast_borrow(None)
print(threads_of_the_kernel())
"""
    found = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    borrowed, own = map(int, found.split())
    assert borrowed == 0
    assert own > 0


@NATIVE
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    """OpenMP's stay with the parent."""
    script = """
import os, torch
from lstm import kernels
torch.set_num_threads(1)
kernels.set_threads(2)
layer = kernels.LSTM(8, 64, batch_first=True)
x = torch.randn(256, 50, 8)
with kernels.using("native"), torch.no_grad():
    expected = layer(x)[0]
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(layer(x)[0], expected) else 1)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""
    # A fork of these tests would have left the team behind already.
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    assert found.stdout == "0\n"


@NATIVE
def test_on_one_thread_torch_takes_few_rows_and_on_intels_processors_what_is_short(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    small, narrow, middle, wide = (kernels.LSTM(1, size, batch_first=True) for size in (16, 32, 128, 256))
    x = torch.zeros(64, 187, 1)

    def least(module: nn.RNNBase, steps: int = 187) -> int:
        """The rows from which the native kernel runs it."""
        taken = [dispatch.choose(module, x[:rows, :steps]) is native.layer for rows in range(1, 65)]
        assert taken == sorted(taken)
        return taken.index(True) + 1

    with torch_threads(1):
        for is_intel, short, long in ((False, 16, 16), (True, 64, 17)):
            monkeypatch.setattr(library, "is_intel", lambda value=is_intel: value)
            assert [least(module) for module in (small, narrow, middle)] == [4, 8, long]
            assert least(middle, steps=47) == short
            assert least(wide, steps=48) == (63 if is_intel else 16)
            assert is_intel or least(wide, steps=24) == 21
            with torch.no_grad():
                assert [least(module) for module in (small, narrow, middle)] == [8, 16, 16]
                assert least(middle, steps=24) == (21 if is_intel else 16)


@NATIVE
def test_gru_and_rnn_run_natively_but_few_rows_of_wide_ones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "shares_threads", lambda: True)
    x = torch.zeros(100, 3, 1)
    for kind in (kernels.GRU, kernels.RNN):
        modest, middle, wide = (kind(1, size, batch_first=True) for size in (64, 128, 512))
        for threads in (1, 2, 3):
            with torch_threads(threads):
                assert dispatch.choose(modest, x[:1]) is native.layer
                for module, training, inference in ((middle, 4, 8), (wide, 16, 16)):
                    assert dispatch.choose(module, x[: training * threads]) is native.layer
                    assert dispatch.choose(module, x[: training * threads - 1]) is None
                    with torch.no_grad():
                        assert dispatch.choose(module, x[: inference * threads]) is native.layer
                        assert dispatch.choose(module, x[: inference * threads - 1]) is None
        with torch_threads(3), torch.no_grad():
            assert dispatch.choose(wide, torch.zeros(16, 125, 1)) is native.layer
            assert dispatch.choose(wide, torch.zeros(16, 124, 1)) is None


def test_what_it_cannot_run_is_left_to_torch() -> None:
    x = torch.randn(8, 6, 3)
    packed = nn.utils.rnn.pack_padded_sequence(
        x, torch.tensor([6, 1, 2, 3, 4, 5, 6, 6]), batch_first=True, enforce_sorted=False
    )
    ours, theirs = twins("lstm", 3, 5, batch_first=True)
    torch.testing.assert_close(ours(packed)[0].data, theirs(packed)[0].data)
    with pytest.warns(UserWarning, match="projections"):
        assert kernels.LSTM(3, 5, batch_first=True, proj_size=2)(x)[0].shape == (8, 6, 2)
    assert ours.double()(x.double())[0].dtype is torch.float64


def test_an_environment_variable_chooses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIGHTCAST_KERNEL", "torch")
    assert kernels.describe() == "torch (NIGHTCAST_KERNEL=torch)"
    monkeypatch.setenv("NIGHTCAST_KERNEL", "fast")
    with pytest.raises(SettingsError, match="auto, native or torch"):
        kernels.LSTM(3, 5)(torch.zeros(1, 1, 3))


def test_without_native_code_torch_does_the_work_and_it_is_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(library, "widths", lambda: ())
    monkeypatch.setattr(library, "load", lambda: None)
    dispatch._say_once.cache_clear()
    ours, theirs = twins("lstm", 3, 5, batch_first=True)
    x = torch.randn(8, 6, 3)
    for _ in range(2):
        assert torch.equal(ours(x)[0], theirs(x)[0])
    assert [record.message for record in caplog.records] == [
        "LSTM, GRU and RNN run on torch's own kernels: the native one is not built: no C compiler at the "
        "install, or built for another machine or from older sources"
    ]
    assert kernels.describe().startswith("torch (not built")
    monkeypatch.setenv("NIGHTCAST_KERNEL", "native")
    with pytest.raises(SettingsError, match="install with a C compiler"):
        ours(x)


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no gcc here")
@pytest.mark.parametrize("layout", ["", "int nightcast_layout(void) { return -1; }\n"])
def test_native_code_from_other_sources_is_left_alone(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layout: str
) -> None:
    code = f"int nightcast_supports(long lanes) {{ return lanes > 0; }}\n{layout}"
    (tmp_path / "old.c").write_text(code)
    built = tmp_path / f"_native{EXTENSION_SUFFIXES[0]}"
    subprocess.run(["gcc", "-shared", "-fPIC", "-o", built, tmp_path / "old.c"], check=True)
    monkeypatch.setattr(library, "__file__", str(tmp_path / "library.py"))
    assert library.load.__wrapped__() is None


@NATIVE
def test_on_one_thread_of_intels_torch_trains_wide_layers_a_little_longer_and_the_smallest_never(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library, "is_intel", lambda: True)
    small, below, wide = (kernels.LSTM(1, size, batch_first=True) for size in (16, 127, 128))
    with torch_threads(1):
        assert dispatch.choose(small, torch.zeros(4, 1, 1)) is native.layer
        assert dispatch.choose(below, torch.zeros(16, 168, 1)) is native.layer
        assert dispatch.choose(wide, torch.zeros(16, 168, 1)) is None
        assert dispatch.choose(wide, torch.zeros(64, 168, 1)) is native.layer
        with torch.inference_mode():
            assert dispatch.choose(wide, torch.zeros(16, 168, 1)) is native.layer
