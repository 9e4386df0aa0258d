"""The command line as pflag reads it, and the process around it: streams, exit codes, what is imported."""

import os
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from raftsched.cli.goflags import HelpAsked, UsageError, parse, usage
from raftsched.cli.serve import ALIAS_HELP, ALIASES
from raftsched.config import load
from raftsched.config.flags import FLAGS, Value
from raftsched.errors import ConfigError


def flags(*words: str, short: bool = False) -> dict[str, Value]:
    return parse(words, FLAGS, ALIASES if short else {})


def test_a_value_follows_an_equals_sign_or_a_space() -> None:
    assert flags("--port=1", "--id", "x", "--log-file=") == {"port": 1, "id": "x", "log-file": ""}
    assert flags("--id", "--port") == {"id": "--port"}  # the next word, whatever it looks like


def test_one_dash_is_as_good_as_two() -> None:
    assert flags("-port", "1", "-tls-enabled") == {"port": 1, "tls-enabled": True}


def test_a_bool_never_takes_the_next_word() -> None:
    assert flags("--etcd-embed", "false") == {"etcd-embed": True}
    for text, value in {"true": True, "t": True, "1": True, "false": False, "f": False, "0": False}.items():
        assert flags(f"--etcd-embed={text}") == {"etcd-embed": value}


def test_a_list_is_comma_separated_and_grows() -> None:
    assert flags("--etcd-initial-cluster=a,b", "--etcd-initial-cluster", '"c,d"') == {"etcd-initial-cluster": ("a", "b", "c,d")}
    assert flags("--etcd-client-endpoints=") == {"etcd-client-endpoints": ()}


def test_the_last_of_several_counts() -> None:
    assert flags("--port=1", "--port=2") == {"port": 2}


def test_positional_words_are_ignored_and_two_dashes_end_the_flags() -> None:
    ignored: list[str] = []
    assert parse(["x", "--port=1", "-", "y", "--", "--nonsense"], FLAGS, {}, ignored) == {"port": 1}
    assert ignored == ["x", "-", "y", "--nonsense"]


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (["--nope"], "unknown flag: --nope"),
        (["-nope=1"], "unknown flag: --nope"),
        (["-n"], "unknown shorthand flag: 'n' in -n"),
        (["--port"], "flag needs an argument: --port"),
        (["--port=x"], 'invalid argument "x" for "--port" flag: strconv.ParseInt: parsing "x": invalid syntax'),
        (["--etcd-embed=yes"], 'invalid argument "yes" for "--etcd-embed" flag: strconv.ParseBool: parsing "yes": invalid syntax'),
        (["--workers=-1"], 'invalid argument "-1" for "--workers" flag: strconv.ParseUint: parsing "-1": invalid syntax'),
        (
            ["--workers=4294967296"],
            'invalid argument "4294967296" for "--workers" flag: strconv.ParseUint: parsing "4294967296": value out of range',
        ),
        (["--=x"], "bad flag syntax: --=x"),
        (["---port=1"], "bad flag syntax: ---port=1"),
        (["--initial-cluster=a"], "unknown flag: --initial-cluster"),
        (["--replica-count=1"], "unknown flag: --replica-count"),
        (["--placement-address=a"], "unknown flag: --placement-address"),
        (["--etcd-client-ports=1"], "unknown flag: --etcd-client-ports"),
        (["--etcd-client-http-ports=1"], "unknown flag: --etcd-client-http-ports"),
    ],
)
def test_what_is_unknown_or_malformed_is_a_usage_error(words: list[str], text: str) -> None:
    with pytest.raises(UsageError) as caught:
        flags(*words)
    assert (str(caught.value), caught.value.exit_code) == (text, 2)


def test_short_names_stand_for_the_long_ones() -> None:
    words = ["--name=m", "--initial-cluster", "m=http://h:1", "--data-dir=/d", "--listen-peer-urls=http://[::1]:7"]
    assert flags(*words, short=True) == {
        "id": "m",
        "etcd-initial-cluster": ("m=http://h:1",),
        "etcd-data-dir": "/d",
        "peer-listen-address": "[::1]:7",
    }
    for wrong in ("unix://h:1", "h:1", "http://h", "http://h:x", "http://h:1,http://i:1"):
        with pytest.raises(UsageError, match="listen-peer-urls"):
            flags(f"--listen-peer-urls={wrong}", short=True)


WORDS = st.lists(
    st.one_of(
        st.text(max_size=12),
        st.builds("--{}={}".format, st.sampled_from([flag.name for flag in FLAGS]), st.text(max_size=12)),
        st.builds("-{}".format, st.sampled_from([flag.name for flag in FLAGS])),
    ),
    max_size=6,
)


@given(WORDS)
def test_any_command_line_is_a_configuration_or_a_declared_refusal(words: list[str]) -> None:
    try:
        load({name: value for name, value in flags(*words, short=True).items() if name != "config"}, {})
    except HelpAsked:
        pass
    except ConfigError as error:
        assert error.exit_code in {1, 2}  # noqa: PT017


@pytest.mark.parametrize("word", ["--help", "-help", "-h", "--h"])
def test_help_is_asked_for(word: str) -> None:
    with pytest.raises(HelpAsked):
        flags(word)


def test_the_help_names_every_visible_flag_and_no_hidden_one() -> None:
    text = usage("raftsched serve", FLAGS, ALIAS_HELP)
    assert "--etcd-space-quota string" in text
    assert '(default "9.2E")' in text
    assert "--kubeconfig" not in text
    assert "--data-dir" in text
    assert "--data-dir" not in usage("raftsched-scheduler", FLAGS).replace("--etcd-data-dir", "")


def run(*words: str, module: str = "raftsched", env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-m", module, *words], capture_output=True, text=True, env=env or {}, check=False, timeout=60)


def test_usage_errors_go_to_stderr_with_exit_2() -> None:
    answer = run("serve", "--nope")
    assert answer.returncode == 2
    assert answer.stdout == ""
    assert answer.stderr.startswith("unknown flag: --nope\nUsage of raftsched serve:\n")


def test_help_goes_to_stdout_with_exit_0() -> None:
    answer = run("serve", "--help")
    assert (answer.returncode, answer.stderr) == (0, "")
    assert answer.stdout.startswith("Usage of raftsched serve:")


def test_fatal_flag_errors_go_to_stdout_with_exit_1_and_no_traceback() -> None:
    answer = run("serve", "--etcd-client-username=u")
    assert (answer.returncode, answer.stderr) == (1, "")
    assert 'level=fatal msg="cannot use --etcd-client-username with --etcd-embed"' in answer.stdout
    assert answer.stdout.count("\n") == 1


def test_what_is_ignored_is_told() -> None:
    """`--enable-metrics false` looks as if it switched something off."""
    words = ["--etcd-data-dir=/proc/none", "--port=0", "--healthz-port=0", "--enable-metrics", "false", "--metrics-port=0"]
    answer = run("serve", *words, env={"PYTHONPATH": os.environ.get("PYTHONPATH", "")})
    assert answer.returncode == 1
    lines = [line for line in answer.stdout.splitlines() if "level=warning" in line]
    assert len(lines) == 1
    assert "ignored, since it is neither a flag nor the value of one: false" in lines[0]


def test_the_scheduler_executable_knows_daprs_flags_only() -> None:
    program = "import sys; sys.argv[1:] = ['--initial-cluster=a']; from raftsched.cli.scheduler import main; sys.exit(main())"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False, timeout=60)
    assert answer.returncode == 2
    assert answer.stderr.startswith("unknown flag: --initial-cluster\nUsage of raftsched-scheduler:\n")


def test_the_version_needs_no_heavy_import() -> None:
    program = "import sys; sys.argv[1:] = ['--version']; from raftsched.cli import main; main(); print({'typer', 'rich'} & {*sys.modules})"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout.startswith("raftsched ")
    assert answer.stdout.endswith("set()\n")


def test_the_store_alone_imports_nothing_of_the_scheduler() -> None:
    program = (
        "import sys, raftsched.cli.etcd, raftsched.standalone; print([name for name in sys.modules if name in "
        "{'typer', 'rich', 'grpc', 'click', 'yaml', 'dns'} or name.startswith(('raftsched.scheduler', 'raftsched.rpc.scheduler'))])"
    )
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout == "[]\n"


def test_the_server_imports_neither_typer_nor_rich_nor_grpc() -> None:
    rooms = "raftsched.cli.serve, raftsched.server, raftsched.rpc.scheduler.api, raftsched.scheduler.service"
    program = f"import sys, {rooms}; print({{'typer', 'rich', 'grpc', 'click', 'h2'}} & {{*sys.modules}})"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout == "set()\n"


def test_identities_cost_a_start_no_grpc() -> None:
    program = "import sys, raftsched.security.identity_guards; print({'typer', 'rich', 'grpc', 'click'} & {*sys.modules})"
    answer = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert answer.stdout == "set()\n"
