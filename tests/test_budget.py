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
    start = pytester.runpytest_subprocess if workers else pytester.runpytest_inprocess
    return start("-p", "no:cacheprovider", *workers)


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


@PARALLEL
def test_slow_system_is_red_and_its_fixtures_count(pytester: pytest.Pytester, workers: tuple[str, ...]) -> None:
    suite(
        pytester,
        """
@pytest.fixture
def model(): time.sleep(0.6)
def test_long(): time.sleep(1.1)
def test_long_with_its_fixture(model): time.sleep(0.6)
def test_quick(): pass
""",
        folder="tests/systems",
        system=1.0,
    )
    result = run(pytester, workers)
    result.assert_outcomes(failed=2, passed=1)
    result.stdout.fnmatch_lines_random(["took 1.? s with its fixtures; a test of a system has 1 s"])


def test_slow_test_elsewhere_is_not_a_system(pytester: pytest.Pytester) -> None:
    suite(pytester, "def test_long(): time.sleep(0.4)\n", folder="tests/system", system=0.3)
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
