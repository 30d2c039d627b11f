"""The budget plugin: what it turns red, alone and under xdist."""

from __future__ import annotations

from pathlib import Path

import pytest

import budget

pytest_plugins = ["pytester"]

PARALLEL = pytest.mark.parametrize("workers", [(), ("-n", "2")], ids=["alone", "xdist"])


def suite(pytester: pytest.Pytester, tests: str, folder: str = "tests", **limits: float) -> None:
    """Writes a suite whose budget has the given limits and one allowed reason."""
    arguments = "".join(f", {name}={value}" for name, value in limits.items())
    pytester.makepyfile(
        conftest=f"""
        import sys
        sys.path.insert(0, {str(Path(budget.__file__).parent)!r})
        from budget import Budget

        def pytest_configure(config):
            config.pluginmanager.register(Budget({{"no GPU here": "runs where there is one"}}{arguments}), "budget")
        """
    )
    path = pytester.path / folder / "test_it.py"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("import pytest, time\n" + tests)


def run(pytester: pytest.Pytester, workers: tuple[str, ...]) -> pytest.RunResult:
    if not workers:
        return pytester.runpytest_inprocess("-p", "no:cacheprovider")
    with pytest.MonkeyPatch.context() as patched:  # three processes that import every plugin take ten times as long
        patched.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
        return pytester.runpytest_subprocess("-p", "no:cacheprovider", "-p", "xdist", *workers)


def test_beside_a_worker_a_system_has_more(pytester: pytest.Pytester) -> None:
    suite(pytester, BUSY + "def test_one(): busy(0.6)\n", folder="tests/systems", system=0.5, patience=100, crowd=4.0)
    run(pytester, ()).assert_outcomes(failed=1)
    run(pytester, ("-n", "1")).assert_outcomes(passed=1)


@PARALLEL
def test_listed_reason_passes_and_its_why_is_printed(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    suite(
        pytester,
        """
def test_skip(): pytest.skip("no GPU here")
@pytest.mark.xfail(reason="no GPU here")
def test_xfail(): assert False
""",
    )
    result = run(pytester, workers)
    result.assert_outcomes(skipped=1, xfailed=1)
    assert result.ret == 0
    result.stdout.fnmatch_lines(["2 x no GPU here: runs where there is one"])


@PARALLEL
def test_unlisted_reason_is_red(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    suite(
        pytester,
        """
def test_skip(): pytest.skip("tired")
@pytest.mark.xfail
def test_xfail(): assert False
@pytest.mark.xfail(reason="someday")
def test_xpass(): pass
def test_pass(): pass
""",
    )
    result = run(pytester, workers)
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines_random(
        ["*does not list: tired*", "*does not list: (none given)*", "*does not list: someday*"]
    )


@PARALLEL
def test_module_that_leaves_itself_out_is_red(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    suite(pytester, "pytest.importorskip('not_there_at_all')\n")
    result = run(pytester, workers)
    assert result.ret != 0
    result.stdout.fnmatch_lines(["*does not list: could not import 'not_there_at_all'*"])


BUSY = """
def busy(seconds):
    begun = time.process_time()
    while time.process_time() < begun + seconds:
        pass
"""


@PARALLEL
def test_dear_system_is_red_and_its_fixtures_and_processes_count(
    pytester: pytest.Pytester, workers: tuple[str, ...]
) -> None:
    suite(
        pytester,
        BUSY
        + """
@pytest.fixture
def model(): busy(0.35)
def test_dear(): busy(0.6)
def test_dear_with_its_fixture(model): busy(0.35)
def test_dear_by_a_process():
    import subprocess, sys
    subprocess.run([sys.executable, "-c", "import time\\nwhile time.process_time() < 0.6: pass"], check=True)
def test_cheap(): busy(0.1)
""",
        folder="tests/systems",
        system=0.5,
        patience=100,
        crowd=1.0,
    )
    result = run(pytester, workers)
    result.assert_outcomes(failed=3, passed=1)
    result.stdout.fnmatch_lines_random(["cost 0.? s of a processor, * a test of a system has 0.5 and 50 s"])


@PARALLEL
def test_waiting_is_free_up_to_a_limit(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    suite(
        pytester,
        "def test_waits(): time.sleep(0.6)\ndef test_waits_too_long(): time.sleep(1.6)\n",
        folder="tests/systems",
        system=0.3,
        patience=5,
        crowd=1.0,
    )
    result = run(pytester, workers)
    result.assert_outcomes(failed=1, passed=1)
    result.stdout.fnmatch_lines(["cost 0.? s of a processor, 1.? s by the clock*"])


def test_slow_test_elsewhere_is_not_a_system(pytester: pytest.Pytester) -> None:
    suite(pytester, "def test_long(): time.sleep(0.4)\n", folder="tests/system", system=0.1, patience=2)
    run(pytester, ()).assert_outcomes(passed=1)


@PARALLEL
def test_run_over_its_total_fails(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    suite(pytester, "def test_long(): time.sleep(0.4)\n", total=0.3)
    result = run(pytester, workers)
    result.assert_outcomes(passed=1)
    assert result.ret == pytest.ExitCode.TESTS_FAILED
    result.stdout.fnmatch_lines(["the run took * s; its budget is 0.3 s"])


def test_list_of_reasons_wants_a_why(tmp_path: Path) -> None:
    path = tmp_path / "skips.txt"
    path.write_text("# comment\n\nno GPU here :: runs where there is one\n")
    assert budget.allowed_reasons(path) == {"no GPU here": "runs where there is one"}
    path.write_text("no GPU here\n")
    with pytest.raises(pytest.UsageError, match=r"skips.txt, line 1: expected 'reason :: why'"):
        budget.allowed_reasons(path)
