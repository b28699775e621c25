"""`${NAME.path}` in shell text: rewritten where the shell would look, untouched elsewhere."""

from __future__ import annotations

import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runner.language.expand import ExpandError, rewrite_shell
from runner.language.shelltext import active_braces

SCOPE = {"J": '{"a": "A $(reboot) `x` \'", "n": 1.50, "l": [1, 2]}'}
REFS = {"my-step": {"exitCode": "3", "stdout": "/log/out"}}
V = "${DAGMILL_PATH_1}"


@pytest.mark.parametrize(
    ("text", "rewritten"),
    [
        ("echo ${J.a}", f"echo {V}"),
        ('echo "${J.a}"', f'echo "{V}"'),
        ("echo '${J.a}'", "echo '${J.a}'"),
        ("echo \"'${J.a}'\"", f"echo \"'{V}'\""),
        (r"echo \${J.a}", r"echo \${J.a}"),
        (r"echo \\${J.a}", rf"echo \\{V}"),
        (r'echo "\${J.a}"', r'echo "\${J.a}"'),
        (r"echo \'${J.a}\'", rf"echo \'{V}\'"),
        ("# it's ${J.a}\necho ${J.a}", f"# it's ${{J.a}}\necho {V}"),
        ("echo a#b ${J.a}", f"echo a#b {V}"),
        ("echo x;# ${J.a}", "echo x;# ${J.a}"),
        ("cat <<EOF\n'${J.a}'\nEOF\n", f"cat <<EOF\n'{V}'\nEOF\n"),
        ("cat <<'EOF'\n${J.a}\nEOF\necho ${J.a}", f"cat <<'EOF'\n${{J.a}}\nEOF\necho {V}"),
        ('cat <<"EOF"\n${J.a}\nEOF\n', 'cat <<"EOF"\n${J.a}\nEOF\n'),
        ("cat <<\\EOF\n${J.a}\nEOF\n", "cat <<\\EOF\n${J.a}\nEOF\n"),
        ("cat <<-EOF\n\t'${J.a}'\n\tEOF\necho '${J.a}'",
         f"cat <<-EOF\n\t'{V}'\n\tEOF\necho '${{J.a}}'"),
        ("cat <<EOF\n\\${J.a} it's\nEOF\necho '${J.a}'",
         "cat <<EOF\n\\${J.a} it's\nEOF\necho '${J.a}'"),
        ("cat <<'A' <<B\n${J.a}\nA\n${J.a}\nB\n", f"cat <<'A' <<B\n${{J.a}}\nA\n{V}\nB\n"),
        ("cat <<\"don't\"\nx\ndon't\necho ${J.a}", f"cat <<\"don't\"\nx\ndon't\necho {V}"),
        ("cat <<EOF\n$(echo '${J.a}')\nEOF\n", "cat <<EOF\n$(echo '${J.a}')\nEOF\n"),
        ("cat <<'EOF'\n${J.a}", "cat <<'EOF'\n${J.a}"),
        ("cat <<<'${J.a}' ${J.a}", f"cat <<<'${{J.a}}' {V}"),
        ('x="$(echo \'${J.a}\' "${J.a}")"', f'x="$(echo \'${{J.a}}\' "{V}")"'),
        ("x=$(case y in y) echo '${J.a}';; esac); echo ${J.a}",
         f"x=$(case y in y) echo '${{J.a}}';; esac); echo {V}"),
        ('"$(case y in y) echo "${J.a}";; esac)" \'${J.a}\'',
         f'"$(case y in y) echo "{V}";; esac)" \'${{J.a}}\''),
        ("echo `echo '${J.a}' ${J.a}`", f"echo `echo '${{J.a}}' {V}`"),
        ("echo $((1 << ${J.n}))\necho '${J.n}'", f"echo $((1 << {V}))\necho '${{J.n}}'"),
        ("((x = 1 << 2))\necho '${J.n}'", "((x = 1 << 2))\necho '${J.n}'"),
        ("echo ${Y:-'${J.a}'}", "echo ${Y:-'${J.a}'}"),
        ("echo \"${Y:-'${J.a}'}\"", f"echo \"${{Y:-'{V}'}}\""),
        ("echo $'it\\'s ${J.a}' ${J.a}", f"echo $'it\\'s ${{J.a}}' {V}"),
        ("(cd x; echo ')' ${J.a})", f"(cd x; echo ')' {V})"),
        ("echo ${X} $X ${a[0]} ${X:-y} ${#X} ${X%.*} $J.a", None),
        ("echo ${a-b.c}", None),
        ("echo ${my-step.exitCode}", f"echo {V}"),
        ("echo ${J.l[1]}x${J.l[1]}", f"echo {V}x{V}"),
        ("", None),
    ],
)  # fmt: skip
def test_what_is_rewritten(text: str, rewritten: str | None) -> None:
    assert rewrite_shell(text, SCOPE, step_refs=REFS)[0] == (
        text if rewritten is None else rewritten
    )


def test_each_reference_has_its_own_variable_and_an_exact_value() -> None:
    text, values = rewrite_shell("${J.n} ${J.l} ${J.n} ${my-step.stdout}", SCOPE, step_refs=REFS)
    assert text == "${DAGMILL_PATH_1} ${DAGMILL_PATH_2} ${DAGMILL_PATH_1} ${DAGMILL_PATH_3}"
    assert values == {
        "DAGMILL_PATH_1": "1.50",
        "DAGMILL_PATH_2": "[1,2]",
        "DAGMILL_PATH_3": "/log/out",
    }


def test_a_reference_that_leads_nowhere_is_named_only_where_it_counts() -> None:
    assert rewrite_shell("echo '${NO.a}'", SCOPE)[1] == {}
    with pytest.raises(ExpandError, match=r"\$\{NO.a\}: NO is not set"):
        rewrite_shell('echo "${NO.a}"', SCOPE)


def test_a_value_stays_inert_in_a_real_shell() -> None:
    text, values = rewrite_shell('printf "%s|" "${J.a}" \'${J.a}\'', SCOPE)
    sh = shutil.which("sh")
    assert sh is not None
    done = subprocess.run([sh, "-c", text], env=values, capture_output=True, text=True, check=True)
    assert done.stdout == "A $(reboot) `x` '|${J.a}|"


SHELL_TEXT = st.lists(
    st.sampled_from(
        ["${J.a}", "${X}", "'", '"', "\\", "`", "$(", ")", "((", "$((", "))", "${", "}", "<<EOF",
         "<<'EOF'", "<<-A", "\nEOF\n", "\n", "\t", " ", "#", ";", "case x in", "esac", "a", "$'",
         "<<<", "|", "<"]
    ),
    max_size=40,
).map("".join)  # fmt: skip


@given(SHELL_TEXT)
def test_no_text_makes_the_scanner_fail(text: str) -> None:
    rewritten, values = rewrite_shell(text, SCOPE)
    assert all(text.startswith("${", at) for at in active_braces(text))
    assert rewritten.replace(V, "${J.a}") == text
    assert (V in rewritten) == bool(values)


@given(
    before=st.sampled_from(
        ["", "echo ", "x=$(y) ", '"a" ', "`z` ", "cat <<E\nb\nE\n", "((1<<2));"]
    ),
    inside=st.text(alphabet=st.characters(exclude_characters="'", exclude_categories=["Cs"])),
)
def test_single_quoted_text_is_never_changed(before: str, inside: str) -> None:
    text = f"{before}'{inside}${{J.a}}' ${{J.a}}"
    assert rewrite_shell(text, SCOPE)[0] == f"{before}'{inside}${{J.a}}' {V}"


@pytest.mark.parametrize(
    "piece", ["$(", "${", "`#", '"$(', "<<A\n", "<<A ", "case x in ", "\\", "'", "((", "`"]
)
@pytest.mark.timeout(20)
def test_long_hostile_texts_take_no_time(piece: str) -> None:
    text = piece * 20_000 + "${X}"
    assert rewrite_shell(text, SCOPE) == (text, {})
